#ifdef FEDSYN_WITH_CUDA
#include "csrc/binding.h"
#include "kernels/gradient_penalty/cuda.h"

namespace fedsyn::binding {
namespace {

void check_sizes(std::int64_t clients, std::int64_t rows, std::int64_t width) {
    check_least("clients", clients, 0);
    check_least("rows", rows, 1);
    check_least("width", width, 1);
}

template <class T, auto kernel>
void rows_cuda(Address gradient, Address norm, Address penalty, Address adjoint,
               std::int64_t clients, std::int64_t rows, std::int64_t width, Address stream) {
    FEDSYN_RANGE("fedsyn::gradient_penalty_rows cuda");
    check_sizes(clients, rows, width);
    check_addresses(clients, gradient, norm, penalty);
    const py::gil_scoped_release release;
    check_launch(kernel(at<const T>(gradient), at<float>(norm), at<float>(penalty), at<T>(adjoint),
                        clients, rows, width, at<void>(stream)),
                 "gradient_penalty_rows");
}

template <class T, auto kernel>
void leaky_relu_cuda(Address z, Address bias, float slope, Address a, Address mask,
                     std::int64_t clients, std::int64_t rows, std::int64_t width, Address stream) {
    FEDSYN_RANGE("fedsyn::leaky_relu_mask cuda");
    check_sizes(clients, rows, width);
    check_addresses(clients, z, bias, a, mask);
    const py::gil_scoped_release release;
    check_launch(kernel(at<const T>(z), at<const T>(bias), slope, at<T>(a), at<std::uint32_t>(mask),
                        clients, rows, width, at<void>(stream)),
                 "leaky_relu_mask");
}

template <class T, auto kernel>
void mask_multiply_cuda(Address x, Address mask, float slope, Address out, std::int64_t rows,
                        std::int64_t width, Address stream) {
    FEDSYN_RANGE("fedsyn::mask_multiply cuda");
    check_sizes(1, rows, width);
    check_addresses(rows, x, mask, out);
    const py::gil_scoped_release release;
    check_launch(kernel(at<const T>(x), at<const std::uint32_t>(mask), slope, at<T>(out), rows,
                        width, at<void>(stream)),
                 "mask_multiply");
}

template <class T, auto rows, auto leaky_relu, auto mask_multiply>
void define(py::module_& m, const std::string& type) {
    m.def(("gradient_penalty_rows_cuda_" + type).c_str(), &rows_cuda<T, rows>, "gradient"_a,
          "norm"_a, "penalty"_a, "adjoint"_a, "clients"_a, "rows"_a, "width"_a, "stream"_a);
    m.def(("leaky_relu_mask_cuda_" + type).c_str(), &leaky_relu_cuda<T, leaky_relu>, "z"_a,
          "bias"_a, "slope"_a, "a"_a, "mask"_a, "clients"_a, "rows"_a, "width"_a, "stream"_a);
    m.def(("mask_multiply_cuda_" + type).c_str(), &mask_multiply_cuda<T, mask_multiply>, "x"_a,
          "mask"_a, "slope"_a, "out"_a, "rows"_a, "width"_a, "stream"_a);
}

}  // namespace

void define_gradient_penalty_cuda(py::module_& m) {
    define<float, fedsyn_gradient_penalty_rows_f32, fedsyn_leaky_relu_mask_f32,
           fedsyn_mask_multiply_f32>(m, "float32");
    define<std::uint16_t, fedsyn_gradient_penalty_rows_bf16, fedsyn_leaky_relu_mask_bf16,
           fedsyn_mask_multiply_bf16>(m, "bfloat16");
}

}  // namespace fedsyn::binding
#endif
