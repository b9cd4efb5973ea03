// C interface of the Jensen-Shannon divergence; kernels/common/cuda_api.h has the conventions.
#pragma once

#include "kernels/common/cuda_api.h"

#ifdef __cplusplus
extern "C" {
#endif

// p, q: [rows, k] -> out: [rows].
FEDSYN_API int fedsyn_js_divergence_f32(const float* p, const float* q, float* out, int64_t rows,
                                        int64_t k, void* stream);
FEDSYN_API int fedsyn_js_divergence_f64(const double* p, const double* q, double* out, int64_t rows,
                                        int64_t k, void* stream);

// grad: [rows]; p, q: [rows, k] -> grad_p, grad_q: [rows, k].
FEDSYN_API int fedsyn_js_divergence_backward_f32(const float* grad, const float* p, const float* q,
                                                 float* grad_p, float* grad_q, int64_t rows,
                                                 int64_t k, void* stream);
FEDSYN_API int fedsyn_js_divergence_backward_f64(const double* grad, const double* p,
                                                 const double* q, double* grad_p, double* grad_q,
                                                 int64_t rows, int64_t k, void* stream);

#ifdef __cplusplus
}
#endif
