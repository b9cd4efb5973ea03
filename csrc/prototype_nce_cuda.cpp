#ifdef FEDSYN_WITH_CUDA
#include "csrc/binding.h"
#include "kernels/prototype_nce/cuda.h"

namespace fedsyn::binding {
namespace {

void check_sizes(std::int64_t clients, std::int64_t rows, std::int64_t count, std::int64_t width) {
    check_least("clients", clients, 0);
    check_least("rows", rows, 0);
    check_least("count", count, 1);
    check_least("width", width, 1);
}

std::int64_t workspace_bytes(std::int64_t clients, std::int64_t rows, std::int64_t count,
                             std::int64_t width) {
    check_sizes(clients, rows, count, width);
    return fedsyn_prototype_nce_workspace(clients, rows, count, width);
}

template <class T, auto kernel>
void forward_cuda(Address x, Address prototypes, Address target, Address scales, float scale,
                  Address valid, Address loss, Address to_x, Address to_prototypes,
                  Address to_scale, Address workspace, std::int64_t clients, std::int64_t rows,
                  std::int64_t count, std::int64_t width, Address stream) {
    FEDSYN_RANGE("fedsyn::prototype_nce cuda");
    check_sizes(clients, rows, count, width);
    check_addresses(clients, prototypes, loss, workspace);
    check_addresses(clients * rows, x, target);
    const py::gil_scoped_release release;
    check_launch(kernel(at<const T>(x), at<const T>(prototypes), at<const std::int64_t>(target),
                        at<const float>(scales), scale, at<const std::uint8_t>(valid),
                        at<float>(loss), at<T>(to_x), at<T>(to_prototypes), at<float>(to_scale),
                        at<void>(workspace), clients, rows, count, width, at<void>(stream)),
                 "prototype_nce");
}

template <class T, auto kernel>
void define(py::module_& m, const std::string& type) {
    m.def(("prototype_nce_cuda_" + type).c_str(), &forward_cuda<T, kernel>, "x"_a, "prototypes"_a,
          "target"_a, "scales"_a, "scale"_a, "valid"_a, "loss"_a, "to_x"_a, "to_prototypes"_a,
          "to_scale"_a, "workspace"_a, "clients"_a, "rows"_a, "count"_a, "width"_a, "stream"_a);
}

}  // namespace

void define_prototype_nce_cuda(py::module_& m) {
    m.def("prototype_nce_cuda_workspace", &workspace_bytes, "clients"_a, "rows"_a, "count"_a,
          "width"_a, "Bytes of scratch, whatever the dtype.");
    define<float, fedsyn_prototype_nce_f32>(m, "float32");
    define<std::uint16_t, fedsyn_prototype_nce_bf16>(m, "bfloat16");
}

}  // namespace fedsyn::binding
#endif
