#include "kernels/js_nearest/cpu.h"

#include "csrc/binding.h"

#ifdef FEDSYN_WITH_CUDA
#include "kernels/js_divergence/cuda.h"
#endif

namespace fedsyn::binding {
namespace {

void check_problem(std::int64_t rows, std::int64_t clients, std::int64_t k) {
    check_least("rows", rows, 0);
    check_least("clients", clients, 1);
    check_least("k", k, 1);
}

void nearest_cpu(Address p, Address q, Address divergence, Address client, std::int64_t rows,
                 std::int64_t clients, std::int64_t k, int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::js_nearest cpu");
    check_problem(rows, clients, k);
    check_addresses(rows, p, q, divergence, client);
    const Isa chosen = check_cpu(threads, isa);
    if (rows == 0) return;
    const py::gil_scoped_release release;
    js_nearest::nearest({at<const float>(p), at<const float>(q), rows, clients, k},
                        at<float>(divergence), at<std::int64_t>(client), threads, chosen);
}

#ifdef FEDSYN_WITH_CUDA
void nearest_cuda(Address p, Address q, Address divergence, Address client, std::int64_t rows,
                  std::int64_t clients, std::int64_t k, Address stream) {
    FEDSYN_RANGE("fedsyn::js_nearest cuda");
    check_problem(rows, clients, k);
    check_addresses(rows, p, q, divergence, client);
    const py::gil_scoped_release release;
    check_launch(
        fedsyn_js_nearest_f32(at<const float>(p), at<const float>(q), at<float>(divergence),
                              at<std::int64_t>(client), rows, clients, k, at<void>(stream)),
        "js_nearest");
}
#endif

}  // namespace

void define_js_nearest(py::module_& m) {
    m.def("js_nearest_cpu_float32", &nearest_cpu, "p"_a, "q"_a, "divergence"_a, "client"_a,
          "rows"_a, "clients"_a, "k"_a, "threads"_a = 1, "isa"_a = "");
#ifdef FEDSYN_WITH_CUDA
    m.def("js_nearest_cuda_float32", &nearest_cuda, "p"_a, "q"_a, "divergence"_a, "client"_a,
          "rows"_a, "clients"_a, "k"_a, "stream"_a);
#endif
}

}  // namespace fedsyn::binding
