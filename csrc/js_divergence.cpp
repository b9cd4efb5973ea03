#include "kernels/js_divergence/cpu.h"

#include "csrc/binding.h"

#ifdef FEDSYN_WITH_CUDA
#include "kernels/js_divergence/cuda.h"
#endif

namespace fedsyn::binding {
namespace {

void check_rows(std::int64_t rows, std::int64_t k) {
    check_least("rows", rows, 0);
    check_least("k", k, 1);
}

template <class T>
void forward_cpu(Address p, Address q, Address out, std::int64_t rows, std::int64_t k, int threads,
                 const std::string& isa) {
    FEDSYN_RANGE("fedsyn::js_divergence cpu");
    check_rows(rows, k);
    check_addresses(rows, p, q, out);
    const Isa chosen = check_cpu(threads, isa);
    if (rows == 0) return;
    const py::gil_scoped_release release;
    js_divergence::forward(at<const T>(p), at<const T>(q), at<T>(out), rows, k, threads, chosen);
}

template <class T>
void backward_cpu(Address grad, Address p, Address q, Address grad_p, Address grad_q,
                  std::int64_t rows, std::int64_t k, int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::js_divergence_backward cpu");
    check_rows(rows, k);
    check_addresses(rows, grad, p, q, grad_p, grad_q);
    const Isa chosen = check_cpu(threads, isa);
    if (rows == 0) return;
    const py::gil_scoped_release release;
    js_divergence::backward(at<const T>(grad), at<const T>(p), at<const T>(q), at<T>(grad_p),
                            at<T>(grad_q), rows, k, threads, chosen);
}

template <class T>
void define_cpu(py::module_& m, const std::string& type) {
    m.def(("js_divergence_cpu_" + type).c_str(), &forward_cpu<T>, "p"_a, "q"_a, "out"_a, "rows"_a,
          "k"_a, "threads"_a = 1, "isa"_a = "");
    m.def(("js_divergence_backward_cpu_" + type).c_str(), &backward_cpu<T>, "grad"_a, "p"_a, "q"_a,
          "grad_p"_a, "grad_q"_a, "rows"_a, "k"_a, "threads"_a = 1, "isa"_a = "");
}

#ifdef FEDSYN_WITH_CUDA
template <class T, auto kernel>
void forward_cuda(Address p, Address q, Address out, std::int64_t rows, std::int64_t k,
                  Address stream) {
    FEDSYN_RANGE("fedsyn::js_divergence cuda");
    check_rows(rows, k);
    check_addresses(rows, p, q, out);
    const py::gil_scoped_release release;
    check_launch(kernel(at<const T>(p), at<const T>(q), at<T>(out), rows, k, at<void>(stream)),
                 "js_divergence");
}

template <class T, auto kernel>
void backward_cuda(Address grad, Address p, Address q, Address grad_p, Address grad_q,
                   std::int64_t rows, std::int64_t k, Address stream) {
    FEDSYN_RANGE("fedsyn::js_divergence_backward cuda");
    check_rows(rows, k);
    check_addresses(rows, grad, p, q, grad_p, grad_q);
    const py::gil_scoped_release release;
    check_launch(kernel(at<const T>(grad), at<const T>(p), at<const T>(q), at<T>(grad_p),
                        at<T>(grad_q), rows, k, at<void>(stream)),
                 "js_divergence_backward");
}

template <class T, auto forward, auto backward>
void define_cuda(py::module_& m, const std::string& type) {
    m.def(("js_divergence_cuda_" + type).c_str(), &forward_cuda<T, forward>, "p"_a, "q"_a, "out"_a,
          "rows"_a, "k"_a, "stream"_a);
    m.def(("js_divergence_backward_cuda_" + type).c_str(), &backward_cuda<T, backward>, "grad"_a,
          "p"_a, "q"_a, "grad_p"_a, "grad_q"_a, "rows"_a, "k"_a, "stream"_a);
}
#endif

}  // namespace

void define_js_divergence(py::module_& m) {
    define_cpu<float>(m, "float32");
    define_cpu<double>(m, "float64");
#ifdef FEDSYN_WITH_CUDA
    define_cuda<float, fedsyn_js_divergence_f32, fedsyn_js_divergence_backward_f32>(m, "float32");
    define_cuda<double, fedsyn_js_divergence_f64, fedsyn_js_divergence_backward_f64>(m, "float64");
#endif
}

}  // namespace fedsyn::binding
