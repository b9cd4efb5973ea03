#ifdef FEDSYN_WITH_CUDA
#include "csrc/binding.h"
#include "kernels/kmeans/cuda.h"

namespace fedsyn::binding {
namespace {

void check_sizes(std::int64_t clients, std::int64_t rows, std::int64_t count, std::int64_t width) {
    check_least("clients", clients, 0);
    check_least("rows", rows, 0);
    check_least("count", count, 1);
    check_least("width", width, 1);
}

void assign_cuda(Address x, Address centroids, Address existing, Address assignment,
                 Address distance, std::int64_t clients, std::int64_t rows, std::int64_t count,
                 std::int64_t width, Address stream) {
    FEDSYN_RANGE("fedsyn::kmeans_assign cuda");
    check_sizes(clients, rows, count, width);
    check_addresses(clients * rows, x, centroids, assignment, distance);
    const py::gil_scoped_release release;
    check_launch(fedsyn_kmeans_assign_f32(at<const float>(x), at<const float>(centroids),
                                          at<const std::int64_t>(existing),
                                          at<std::int64_t>(assignment), at<float>(distance),
                                          clients, rows, count, width, at<void>(stream)),
                 "kmeans_assign");
}

void update_cuda(Address x, Address weight, Address order, Address start, Address sums,
                 Address mass, std::int64_t clients, std::int64_t rows, std::int64_t count,
                 std::int64_t width, Address stream) {
    FEDSYN_RANGE("fedsyn::kmeans_update cuda");
    check_sizes(clients, rows, count, width);
    check_addresses(clients, start, sums, mass);
    check_addresses(clients * rows, x, order);
    const py::gil_scoped_release release;
    check_launch(fedsyn_kmeans_update_f32(
                     at<const float>(x), at<const float>(weight), at<const std::int64_t>(order),
                     at<const std::int64_t>(start), at<float>(sums), at<float>(mass), clients, rows,
                     count, width, at<void>(stream)),
                 "kmeans_update");
}

}  // namespace

void define_kmeans_cuda(py::module_& m) {
    m.def("kmeans_assign_cuda_float32", &assign_cuda, "x"_a, "centroids"_a, "existing"_a,
          "assignment"_a, "distance"_a, "clients"_a, "rows"_a, "count"_a, "width"_a, "stream"_a);
    m.def("kmeans_update_cuda_float32", &update_cuda, "x"_a, "weight"_a, "order"_a, "start"_a,
          "sums"_a, "mass"_a, "clients"_a, "rows"_a, "count"_a, "width"_a, "stream"_a);
}

}  // namespace fedsyn::binding
#endif
