#include "kernels/kmeans/cpu.h"

#include <limits>

#include "csrc/binding.h"

namespace fedsyn::binding {
namespace {

void cluster_cpu(Address x, Address draws, Address valid, Address weight, Address centroids,
                 Address assignment, Address counts, std::int64_t clients, std::int64_t rows,
                 std::int64_t width, std::int64_t count, std::int64_t trials,
                 std::int64_t iterations, bool spherical, int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::kmeans cpu");
    check_least("clients", clients, 0);
    check_least("rows", rows, 0);
    check_least("width", width, 1);
    check_least("count", count, 1);
    check_least("trials", trials, 1);
    check_least("iterations", iterations, 1);
    constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
    if (count >= kMost || rows >= kMost) {
        throw std::invalid_argument("rows and count are " + std::to_string(rows) + " and " +
                                    std::to_string(count) + ", expected < 2^31 - 1");
    }
    check_addresses(clients, draws, centroids, counts);
    check_addresses(clients * rows, x, assignment);
    const Isa chosen = check_cpu(threads, isa);
    std::int64_t refused = -1;
    {
        const py::gil_scoped_release release;
        refused = kmeans::cluster(
            {at<const float>(x), at<const float>(draws), at<const std::uint8_t>(valid),
             at<const double>(weight), at<float>(centroids), at<std::int64_t>(assignment),
             at<std::int64_t>(counts), clients, rows, width, count, trials, iterations, spherical},
            threads, chosen);
    }
    if (refused >= 0) {
        throw std::invalid_argument(
            "kmeans: expected rows with finite squares, not so for client " +
            std::to_string(refused));
    }
}

}  // namespace

void define_kmeans(py::module_& m) {
    m.def("kmeans_cpu_float32", &cluster_cpu, "x"_a, "draws"_a, "valid"_a, "weight"_a,
          "centroids"_a, "assignment"_a, "counts"_a, "clients"_a, "rows"_a, "width"_a, "count"_a,
          "trials"_a, "iterations"_a, "spherical"_a, "threads"_a = 1, "isa"_a = "");
}

}  // namespace fedsyn::binding
