// C interface of the gradient penalty's own steps (its products are batched matrix products of a
// library); kernels/common/cuda_api.h has the conventions. bfloat16 arrays are given as their bits.
#pragma once

#include "kernels/common/cuda_api.h"

#ifdef __cplusplus
extern "C" {
#endif

// gradient: [clients, rows, width], the critic's input gradients -> norm: [clients, rows], at least
// 1e-12; penalty: [clients], the mean of (norm - 1)^2; adjoint like the gradient, the derivative of
// the penalty to it, 2/rows (1 - 1/norm) gradient, or null where it is not wanted.
FEDSYN_API int fedsyn_gradient_penalty_rows_f32(const float* gradient, float* norm, float* penalty,
                                                float* adjoint, int64_t clients, int64_t rows,
                                                int64_t width, void* stream);
FEDSYN_API int fedsyn_gradient_penalty_rows_bf16(const uint16_t* gradient, float* norm,
                                                 float* penalty, uint16_t* adjoint, int64_t clients,
                                                 int64_t rows, int64_t width, void* stream);

// z: [clients, rows, width]; bias: [clients, width] -> a like z, LeakyReLU(z + bias), and
// mask: [clients, rows, ceil(width / 32)] words, bit i of word j set where z + bias > 0 at column
// 32 j + i. a may be z.
FEDSYN_API int fedsyn_leaky_relu_mask_f32(const float* z, const float* bias, float slope, float* a,
                                          uint32_t* mask, int64_t clients, int64_t rows,
                                          int64_t width, void* stream);
FEDSYN_API int fedsyn_leaky_relu_mask_bf16(const uint16_t* z, const uint16_t* bias, float slope,
                                           uint16_t* a, uint32_t* mask, int64_t clients,
                                           int64_t rows, int64_t width, void* stream);

// x: [rows, width], mask as above -> out: x where the bit is set, else slope x. out may be x.
FEDSYN_API int fedsyn_mask_multiply_f32(const float* x, const uint32_t* mask, float slope,
                                        float* out, int64_t rows, int64_t width, void* stream);
FEDSYN_API int fedsyn_mask_multiply_bf16(const uint16_t* x, const uint32_t* mask, float slope,
                                         uint16_t* out, int64_t rows, int64_t width, void* stream);

#ifdef __cplusplus
}
#endif
