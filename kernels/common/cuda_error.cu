#include "kernels/common/cuda_api.h"

const char* fedsyn_cuda_error_string(int code) {
    return cudaGetErrorString(static_cast<cudaError_t>(code));
}
