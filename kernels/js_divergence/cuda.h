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

// Divergence between softmax(scale x px^T) and softmax(scale y py^T), and the prototype with the
// greatest scale (x.px + y.py), the first of equals. x, y: [rows, width]; px, py:
// [prototypes, width]; valid: [prototypes] bytes, or null where all are -> divergence, assignment:
// [rows].
FEDSYN_API int fedsyn_js_assign_f32(const float* x, const float* y, const float* px,
                                    const float* py, float scale, const uint8_t* valid,
                                    float* divergence, int64_t* assignment, int64_t rows,
                                    int64_t prototypes, int64_t width, void* stream);

// The least of these divergences over clients, its client, the first of equals, and the assignment
// there. px, py: [clients, prototypes, width]; valid: [clients, prototypes] or null. A client with
// no valid prototype is passed over; where all are, the divergence is infinite.
FEDSYN_API int fedsyn_js_filter_f32(const float* x, const float* y, const float* px,
                                    const float* py, float scale, const uint8_t* valid,
                                    float* divergence, int64_t* client, int64_t* assignment,
                                    int64_t rows, int64_t clients, int64_t prototypes,
                                    int64_t width, void* stream);

// The least divergence of each row of p: [rows, k] from the rows of q: [clients, k] -> divergence,
// client: [rows], the first of equals. At least one client.
FEDSYN_API int fedsyn_js_nearest_f32(const float* p, const float* q, float* divergence,
                                     int64_t* client, int64_t rows, int64_t clients, int64_t k,
                                     void* stream);

#ifdef __cplusplus
}
#endif
