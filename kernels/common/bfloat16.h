// Storage of bfloat16 numbers: the upper half of a float's bits.
//
// Both types may alias: rows are read as one or the other, and buffers of floats hold either.
#pragma once

#include <cstdint>

namespace fedsyn {

struct __attribute__((may_alias)) Bfloat16 {
    std::uint16_t bits;
};

// Two neighbours, the first in the lower half.
struct __attribute__((may_alias)) Pair {
    std::int32_t bits;
};

}  // namespace fedsyn
