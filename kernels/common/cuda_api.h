// The plain C interface of libfedsyn_cuda, loadable from any language (ctypes from any Python).
//
// Pointers are to contiguous device memory; `stream` is a cudaStream_t. Functions launch on the
// current device, allocate nothing, do not synchronise, and return a cudaError_t (0 is success).
#pragma once

#include <stdint.h>

#define FEDSYN_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

// A sentence about a returned error code.
FEDSYN_API const char* fedsyn_cuda_error_string(int code);

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
