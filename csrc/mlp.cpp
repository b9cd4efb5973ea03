#include "kernels/mlp/cpu.h"

#include "csrc/network.h"

namespace fedsyn::binding {
namespace {

void mlp_cpu(Address x, Address params, Address out, Address kept, const Sizes& widths,
             const Sizes& lengths, std::int64_t clients, std::int64_t rows, std::int64_t stride,
             float slope, const std::string& head, bool skip, int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::mlp cpu");
    const mlp::Network network = network_of(params, stride, widths, lengths, slope, head,
                                            skip ? mlp::Skip::trained : mlp::Skip::none);
    check_least("clients", clients, 0);
    check_least("rows", rows, 0);
    check_addresses(clients * rows, x, params, out);
    const Isa chosen = check_cpu(threads, isa);
    const py::gil_scoped_release release;
    mlp::forward(network, {clients, rows, at<const float>(x), at<float>(out), at<float>(kept)},
                 threads, chosen);
}

void mlp_backward_cpu(Address to_out, Address x, Address params, Address out, Address kept,
                      Address to_x, Address to_params, const Sizes& widths, const Sizes& lengths,
                      std::int64_t clients, std::int64_t rows, std::int64_t stride, float slope,
                      const std::string& head, bool skip, int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::mlp_backward cpu");
    const mlp::Network network = network_of(params, stride, widths, lengths, slope, head,
                                            skip ? mlp::Skip::trained : mlp::Skip::none);
    check_least("clients", clients, 0);
    check_least("rows", rows, 0);
    check_addresses(clients * rows, to_out, x, params);
    const bool plain = network.head == mlp::Head::linear;
    if (!plain) check_addresses(clients * rows, out);
    for (const std::int64_t length : lengths) {
        if (!plain || length > 2) check_addresses(clients * rows, kept);
    }
    const Isa chosen = check_cpu(threads, isa);
    const py::gil_scoped_release release;
    mlp::backward(network, {clients, rows, at<const float>(x), at<float>(out), at<float>(kept)},
                  at<const float>(to_out), at<float>(to_x), at<float>(to_params), threads, chosen);
}

}  // namespace

void define_mlp(py::module_& m) {
    m.def("mlp_cpu_float32", &mlp_cpu, "x"_a, "params"_a, "out"_a, "kept"_a, "widths"_a,
          "lengths"_a, "clients"_a, "rows"_a, "stride"_a, "slope"_a, "head"_a, "skip"_a.noconvert(),
          "threads"_a = 1, "isa"_a = "");
    m.def("mlp_backward_cpu_float32", &mlp_backward_cpu, "to_out"_a, "x"_a, "params"_a, "out"_a,
          "kept"_a, "to_x"_a, "to_params"_a, "widths"_a, "lengths"_a, "clients"_a, "rows"_a,
          "stride"_a, "slope"_a, "head"_a, "skip"_a.noconvert(), "threads"_a = 1, "isa"_a = "");
}

}  // namespace fedsyn::binding
