// The instruction sets that the CPU kernels are compiled for, and which this processor has.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

namespace fedsyn {

enum class Isa { baseline, avx2, avx512 };

std::string_view name(Isa isa);

// What this build and this processor both have, best first.
const std::vector<Isa>& available_isas();

// Whether products of bfloat16 pairs are an instruction beside Isa::avx512.
bool has_bfloat16();

// Whether counting the bits of a vector's lanes is one.
bool has_popcount();

// The available instruction set of that name; the best one for an empty name.
std::optional<Isa> find_isa(std::string_view isa_name);

}  // namespace fedsyn
