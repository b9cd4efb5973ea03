#include "kernels/local_training/cpu.h"

#include "csrc/network.h"

namespace fedsyn::binding {
namespace {

constexpr std::pair<const char*, local_training::Rule> kRules[] = {
    {"adam", local_training::Rule::adam},
    {"sgd", local_training::Rule::sgd},
    {"rmsprop", local_training::Rule::rmsprop},
};

local_training::Rule rule_of(const std::string& rule) {
    for (const auto& [name, value] : kRules) {
        if (rule == name) return value;
    }
    throw std::invalid_argument("optimizer '" + rule + "' is not adam, sgd or rmsprop");
}

void train_info_nce_cpu(Address params, Address features, Address index, Address sizes,
                        Address trained, Address loss, const Sizes& widths, const Sizes& lengths,
                        std::int64_t clients, std::int64_t stride, std::int64_t steps,
                        std::int64_t batch, const std::string& head, const std::string& skip,
                        float scale, const std::string& rule, const std::vector<float>& numbers,
                        int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::train_info_nce cpu");
    const mlp::Network network =
        network_of(params, stride, widths, lengths, 0.0f, head, skip_of(skip));
    check_least("clients", clients, 0);
    check_least("steps", steps, 0);
    check_least("batch", batch, 0);
    check_addresses(clients, params, trained, loss);
    check_addresses(clients * steps, sizes);
    check_addresses(clients * steps * batch, index, features);
    if (numbers.size() != 6) throw std::invalid_argument("expected six numbers of the optimizer");
    const local_training::Plan plan{at<const std::int64_t>(index), at<const std::int64_t>(sizes),
                                    steps, clients, batch};
    const local_training::Optimizer optimizer{rule_of(rule), numbers[0], numbers[1], numbers[2],
                                              numbers[3],    numbers[4], numbers[5]};
    const Isa chosen = check_cpu(threads, isa);
    const py::gil_scoped_release release;
    local_training::train(network, at<const float>(features), plan, scale, optimizer,
                          at<float>(trained), at<float>(loss), threads, chosen);
}

}  // namespace

void define_local_training(py::module_& m) {
    m.def("train_info_nce_cpu_float32", &train_info_nce_cpu, "params"_a, "features"_a, "index"_a,
          "sizes"_a, "trained"_a, "loss"_a, "widths"_a, "lengths"_a, "clients"_a, "stride"_a,
          "steps"_a, "batch"_a, "head"_a, "skip"_a, "scale"_a, "rule"_a, "numbers"_a,
          "threads"_a = 1, "isa"_a = "");
}

}  // namespace fedsyn::binding
