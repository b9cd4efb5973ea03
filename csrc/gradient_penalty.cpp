#include "kernels/gradient_penalty/cpu.h"

#include <pybind11/stl.h>

#include <vector>

#include "csrc/binding.h"

namespace fedsyn::binding {
namespace {

using Addresses = std::vector<Address>;
using Sizes = std::vector<std::int64_t>;

std::vector<const float*> pointers(const Addresses& addresses) {
    std::vector<const float*> out;
    for (const Address address : addresses) out.push_back(at<const float>(address));
    return out;
}

void check_layers(const Sizes& widths, const Addresses& weights, const Sizes& weight_strides,
                  const Addresses& biases, const Sizes& bias_strides) {
    const std::size_t layers = weights.size();
    if (layers == 0 || widths.size() != layers + 1 || weight_strides.size() != layers ||
        biases.size() != layers || bias_strides.size() != layers) {
        throw std::invalid_argument(
            "expected a weight, a bias and a stride of each for every layer, and one width more");
    }
    for (const std::int64_t width : widths) check_least("width", width, 1);
    if (widths.back() != 1) throw std::invalid_argument("the last width is not 1");
}

void critic_step_cpu(Address real, Address fake, Address between, const Addresses& weights,
                     const Sizes& weight_strides, const Addresses& biases,
                     const Sizes& bias_strides, const Sizes& widths, std::int64_t clients,
                     std::int64_t rows, float slope, float penalty_weight, Address loss,
                     Address penalty, Address gradient, int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::critic_step cpu");
    check_layers(widths, weights, weight_strides, biases, bias_strides);
    check_least("clients", clients, 0);
    check_least("rows", rows, 1);
    if ((real == 0) != (fake == 0) || (real == 0 && between == 0)) {
        throw std::invalid_argument("expected real and fake rows, rows between them, or all three");
    }
    check_addresses(clients, loss, penalty);
    for (std::size_t l = 0; l < weights.size(); ++l) {
        check_addresses(clients, weights[l], biases[l]);
    }
    const Isa chosen = check_cpu(threads, isa);
    if (clients == 0) return;
    const std::vector<const float*> weight = pointers(weights), bias = pointers(biases);
    const gradient_penalty::Critic critic{static_cast<std::int64_t>(weights.size()),
                                          widths.data(),
                                          weight.data(),
                                          weight_strides.data(),
                                          bias.data(),
                                          bias_strides.data(),
                                          slope};
    const gradient_penalty::Batch batch{at<const float>(real), at<const float>(fake),
                                        at<const float>(between), clients, rows};
    const py::gil_scoped_release release;
    gradient_penalty::critic_step(critic, batch, penalty_weight, at<float>(loss),
                                  at<float>(penalty), at<float>(gradient), threads, chosen);
}

}  // namespace

void define_gradient_penalty(py::module_& m) {
    m.def("critic_step_cpu_float32", &critic_step_cpu, "real"_a, "fake"_a, "between"_a, "weights"_a,
          "weight_strides"_a, "biases"_a, "bias_strides"_a, "widths"_a, "clients"_a, "rows"_a,
          "slope"_a, "penalty_weight"_a, "loss"_a, "penalty"_a, "gradient"_a, "threads"_a = 1,
          "isa"_a = "");
}

}  // namespace fedsyn::binding
