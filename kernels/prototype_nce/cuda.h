// C interface of the contrast against prototypes; kernels/common/cuda_api.h has the conventions.
#pragma once

#include "kernels/common/cuda_api.h"

#ifdef __cplusplus
extern "C" {
#endif

// Bytes of scratch that the functions below need.
FEDSYN_API int64_t fedsyn_prototype_nce_workspace(int64_t clients, int64_t rows, int64_t count,
                                                  int64_t width);

// x: [clients, rows, width]; prototypes: [clients, count, width]; target: [clients, rows]; scales:
// [clients], or null where `scale` is everyone's; valid: [clients, count] bytes, or null where all
// prototypes exist. A row takes part in the mean where its target is one that exists.
// -> loss: [clients], and its gradients to_x, to_prototypes and to_scale: [clients], each null
// where it is not wanted. workspace: as many bytes as above, at a multiple of 16.
FEDSYN_API int fedsyn_prototype_nce_f32(const float* x, const float* prototypes,
                                        const int64_t* target, const float* scales, float scale,
                                        const uint8_t* valid, float* loss, float* to_x,
                                        float* to_prototypes, float* to_scale, void* workspace,
                                        int64_t clients, int64_t rows, int64_t count, int64_t width,
                                        void* stream);
// The same with bfloat16 x, prototypes and their gradients, given as their bits.
FEDSYN_API int fedsyn_prototype_nce_bf16(const uint16_t* x, const uint16_t* prototypes,
                                         const int64_t* target, const float* scales, float scale,
                                         const uint8_t* valid, float* loss, uint16_t* to_x,
                                         uint16_t* to_prototypes, float* to_scale, void* workspace,
                                         int64_t clients, int64_t rows, int64_t count,
                                         int64_t width, void* stream);

#ifdef __cplusplus
}
#endif
