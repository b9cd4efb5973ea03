// The tensor cores' product of small bfloat16 matrices.
#pragma once

#include <cstdint>

namespace fedsyn {

// acc[16, 8] += a[16, 16] b[8, 16]^T by one warp. With g = lane / 4 and t = lane % 4, a lane holds
//   a:   pairs (row, depth) at (g, 2t), (g + 8, 2t), (g, 2t + 8), (g + 8, 2t + 8)
//   b:   pairs at (g, 2t), (g, 2t + 8)
//   acc: (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
// where a pair is two neighbours along the depth, the first in the low half. From sm_80 on.
__device__ inline void multiply_add_16x8x16(float (&acc)[4], const std::uint32_t (&a)[4],
                                            const std::uint32_t (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(acc[0]), "+f"(acc[1]), "+f"(acc[2]), "+f"(acc[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace fedsyn
