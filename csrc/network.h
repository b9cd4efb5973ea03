// The networks of kernels/mlp, from what Python passes.
#pragma once

#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "csrc/binding.h"
#include "kernels/mlp/cpu.h"

namespace fedsyn::binding {

using Sizes = std::vector<std::int64_t>;

inline constexpr std::pair<const char*, mlp::Head> kHeads[] = {
    {"linear", mlp::Head::linear},
    {"unit", mlp::Head::unit},
    {"tanh_unit", mlp::Head::tanh_unit},
};

inline constexpr std::pair<const char*, mlp::Skip> kSkips[] = {
    {"none", mlp::Skip::none},
    {"trained", mlp::Skip::trained},
    {"frozen", mlp::Skip::frozen},
};

inline mlp::Head head_of(const std::string& head) {
    for (const auto& [name, value] : kHeads) {
        if (head == name) return value;
    }
    throw std::invalid_argument("head '" + head + "' is not linear, unit or tanh_unit");
}

inline mlp::Skip skip_of(const std::string& skip) {
    for (const auto& [name, value] : kSkips) {
        if (skip == name) return value;
    }
    throw std::invalid_argument("skip '" + skip + "' is not none, trained or frozen");
}

// Holds no sizes of its own: they must live as long.
inline mlp::Network network_of(Address params, std::int64_t stride, const Sizes& widths,
                               const Sizes& lengths, float slope, const std::string& head,
                               mlp::Skip skip) {
    std::int64_t total = 0;
    for (const std::int64_t length : lengths) {
        check_least("length", length, 2);
        total += length;
    }
    check_least("towers", static_cast<std::int64_t>(lengths.size()), 1);
    if (total != static_cast<std::int64_t>(widths.size())) {
        throw std::invalid_argument("expected as many widths as the lengths of the towers say");
    }
    for (const std::int64_t width : widths) check_least("width", width, 1);
    return {static_cast<std::int64_t>(lengths.size()),
            lengths.data(),
            widths.data(),
            at<const float>(params),
            stride,
            slope,
            head_of(head),
            skip};
}

}  // namespace fedsyn::binding
