// The conventions of the plain C interface of libfedsyn_cuda, loadable from any language (ctypes
// from any Python); the functions of an operator are declared in its room's cuda.h.
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

#ifdef __cplusplus
}
#endif
