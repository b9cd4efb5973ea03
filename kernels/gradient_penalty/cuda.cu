// The gradient penalty of a LeakyReLU critic on the GPU: what stands between its matrix products.
//
//   n_i = max(|g_i|, 1e-12),  P = 1/B sum_i (n_i - 1)^2,  U_i = dP/dg_i = 2/B (1 - 1/n_i) g_i
//   a = LeakyReLU(z + b)      with the sign of z + b kept as one bit: all that later passes need
//
// All of it is bound by memory.
#include "kernels/gradient_penalty/cuda.h"

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/common/launch.cuh"
#include "kernels/common/warp.cuh"

namespace fedsyn::gradient_penalty {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kBlocksPerSm = 4;  // 64 registers: left to itself, ptxas may spill at 32
constexpr float kLeastNorm = 1e-12f;

// Norms and adjoint, a warp a row. The second reading of a row finds it in the L1 cache.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    rows_kernel(const T* __restrict__ gradient, float* __restrict__ norm, T* __restrict__ adjoint,
                float unit, std::int64_t rows, std::int64_t width) {
    using Packed = Pack<T, kPack>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t packs = width / kPack;
    std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    for (; row < rows; row += std::int64_t{gridDim.x} * kWarps) {
        const auto* from = reinterpret_cast<const Packed*>(gradient + row * width);
        float square = 0;
        for (std::int64_t i = lane; i < packs; i += 32) {
            const Packed g = from[i];
#pragma unroll
            for (int j = 0; j < kPack; ++j) {
                const float value = static_cast<float>(g.at[j]);
                square = fmaf(value, value, square);
            }
        }
        const float length = sqrtf(group_sum<32>(square));
        const float n = length < kLeastNorm ? kLeastNorm : length;  // lets NaN through
        if (lane == 0) norm[row] = n;
        if (adjoint == nullptr) continue;
        auto* to = reinterpret_cast<Packed*>(adjoint + row * width);
        const float factor = unit * (1 - 1 / n);
        for (std::int64_t i = lane; i < packs; i += 32) {
            Packed g = from[i];
#pragma unroll
            for (int j = 0; j < kPack; ++j) {
                g.at[j] = static_cast<T>(factor * static_cast<float>(g.at[j]));
            }
            to[i] = g;
        }
    }
}

// The mean of (norm - 1)^2 over a client's rows, a block a client.
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    penalty_kernel(const float* __restrict__ norm, float* __restrict__ penalty,
                   std::int64_t clients, std::int64_t rows) {
    for (std::int64_t client = blockIdx.x; client < clients; client += gridDim.x) {
        float sum = 0;
        for (std::int64_t i = threadIdx.x; i < rows; i += kThreads) {
            const float excess = norm[client * rows + i] - 1;
            sum = fmaf(excess, excess, sum);
        }
        sum = block_sum<kThreads>(sum);
        if (threadIdx.x == 0) penalty[client] = sum / static_cast<float>(rows);
    }
}

// Lanes that share a word of the mask.
template <int kPack>
constexpr int kLanesOfWord = 32 / kPack;

// A warp takes 32 packs of a row: kPack words of the mask. z and a may be the same.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    leaky_relu_kernel(const T* z, const T* __restrict__ bias, float slope, T* a,
                      std::uint32_t* __restrict__ mask, std::int64_t clients, std::int64_t rows,
                      std::int64_t width) {
    using Packed = Pack<T, kPack>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t words = ceil_div(width, 32);
    const std::int64_t chunks = ceil_div(words, kPack);
    const std::int64_t tasks = clients * rows * chunks;
    std::int64_t task = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    for (; task < tasks; task += std::int64_t{gridDim.x} * kWarps) {
        const std::int64_t row = task / chunks;  // of all clients'
        const std::int64_t column = task % chunks * (32 * kPack) + lane * kPack;
        const std::int64_t client = row / rows;
        std::uint32_t bits = 0;
        if (column < width) {
            Packed value = *reinterpret_cast<const Packed*>(z + row * width + column);
            const Packed b = *reinterpret_cast<const Packed*>(bias + client * width + column);
#pragma unroll
            for (int j = 0; j < kPack; ++j) {
                const float x = static_cast<float>(value.at[j]) + static_cast<float>(b.at[j]);
                bits |= (x > 0 ? 1u : 0u) << (lane * kPack + j) % 32;
                value.at[j] = static_cast<T>(x > 0 ? x : slope * x);
            }
            *reinterpret_cast<Packed*>(a + row * width + column) = value;
        }
        bits = group_reduce<kLanesOfWord<kPack>>(
            bits, [](std::uint32_t s, std::uint32_t t) { return s | t; });
        if (lane % kLanesOfWord<kPack> == 0 && column < width)
            mask[row * words + column / 32] = bits;
    }
}

// x and out may be the same.
template <class T, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    mask_multiply_kernel(const T* x, const std::uint32_t* __restrict__ mask, float slope, T* out,
                         std::int64_t rows, std::int64_t width) {
    using Packed = Pack<T, kPack>;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t words = ceil_div(width, 32);
    const std::int64_t chunks = ceil_div(words, kPack);
    std::int64_t task = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    for (; task < rows * chunks; task += std::int64_t{gridDim.x} * kWarps) {
        const std::int64_t row = task / chunks;
        const std::int64_t column = task % chunks * (32 * kPack) + lane * kPack;
        if (column >= width) continue;
        const std::uint32_t bits = mask[row * words + column / 32] >> column % 32;
        Packed value = *reinterpret_cast<const Packed*>(x + row * width + column);
#pragma unroll
        for (int j = 0; j < kPack; ++j) {
            const float v = static_cast<float>(value.at[j]);
            value.at[j] = static_cast<T>(bits >> j & 1u ? v : slope * v);
        }
        *reinterpret_cast<Packed*>(out + row * width + column) = value;
    }
}

template <class T>
int penalty_rows(const T* gradient, float* norm, float* penalty, T* adjoint, std::int64_t clients,
                 std::int64_t rows, std::int64_t width, void* stream) {
    const bool packed = width % kWidest<T> == 0 && aligned(gradient, adjoint);
    const cudaError_t error =
        launch(packed ? rows_kernel<T, kWidest<T>> : rows_kernel<T, 1>,
               ceil_div(clients * rows, kWarps), kThreads, stream, gradient, norm, adjoint,
               2.0f / static_cast<float>(rows), clients * rows, width);
    if (error != cudaSuccess) return error;
    return launch(penalty_kernel, rows == 0 ? 0 : clients, kThreads, stream, norm, penalty, clients,
                  rows);
}

// Blocks' work of the two kernels below.
template <int kPack>
std::int64_t mask_tasks(std::int64_t rows, std::int64_t width) {
    return ceil_div(rows * ceil_div(ceil_div(width, 32), kPack), kWarps);
}

template <class T>
int leaky_relu_mask(const T* z, const T* bias, float slope, T* a, std::uint32_t* mask,
                    std::int64_t clients, std::int64_t rows, std::int64_t width, void* stream) {
    const auto run = [&]<int kPack>(auto* kernel) {
        return launch(kernel, mask_tasks<kPack>(clients * rows, width), kThreads, stream, z, bias,
                      slope, a, mask, clients, rows, width);
    };
    const bool packed = width % kWidest<T> == 0 && aligned(z, bias, a);
    return packed ? run.template operator()<kWidest<T>>(leaky_relu_kernel<T, kWidest<T>>)
                  : run.template operator()<1>(leaky_relu_kernel<T, 1>);
}

template <class T>
int mask_multiply(const T* x, const std::uint32_t* mask, float slope, T* out, std::int64_t rows,
                  std::int64_t width, void* stream) {
    const auto run = [&]<int kPack>(auto* kernel) {
        return launch(kernel, mask_tasks<kPack>(rows, width), kThreads, stream, x, mask, slope, out,
                      rows, width);
    };
    const bool packed = width % kWidest<T> == 0 && aligned(x, out);
    return packed ? run.template operator()<kWidest<T>>(mask_multiply_kernel<T, kWidest<T>>)
                  : run.template operator()<1>(mask_multiply_kernel<T, 1>);
}

const __nv_bfloat16* bfloat16(const std::uint16_t* bits) {
    return reinterpret_cast<const __nv_bfloat16*>(bits);
}

__nv_bfloat16* bfloat16(std::uint16_t* bits) {
    return reinterpret_cast<__nv_bfloat16*>(bits);
}

}  // namespace
}  // namespace fedsyn::gradient_penalty

int fedsyn_gradient_penalty_rows_f32(const float* gradient, float* norm, float* penalty,
                                     float* adjoint, int64_t clients, int64_t rows, int64_t width,
                                     void* stream) {
    return fedsyn::gradient_penalty::penalty_rows(gradient, norm, penalty, adjoint, clients, rows,
                                                  width, stream);
}

int fedsyn_gradient_penalty_rows_bf16(const uint16_t* gradient, float* norm, float* penalty,
                                      uint16_t* adjoint, int64_t clients, int64_t rows,
                                      int64_t width, void* stream) {
    using namespace fedsyn::gradient_penalty;
    return penalty_rows(bfloat16(gradient), norm, penalty, bfloat16(adjoint), clients, rows, width,
                        stream);
}

int fedsyn_leaky_relu_mask_f32(const float* z, const float* bias, float slope, float* a,
                               uint32_t* mask, int64_t clients, int64_t rows, int64_t width,
                               void* stream) {
    return fedsyn::gradient_penalty::leaky_relu_mask(z, bias, slope, a, mask, clients, rows, width,
                                                     stream);
}

int fedsyn_leaky_relu_mask_bf16(const uint16_t* z, const uint16_t* bias, float slope, uint16_t* a,
                                uint32_t* mask, int64_t clients, int64_t rows, int64_t width,
                                void* stream) {
    using namespace fedsyn::gradient_penalty;
    return leaky_relu_mask(bfloat16(z), bfloat16(bias), slope, bfloat16(a), mask, clients, rows,
                           width, stream);
}

int fedsyn_mask_multiply_f32(const float* x, const uint32_t* mask, float slope, float* out,
                             int64_t rows, int64_t width, void* stream) {
    return fedsyn::gradient_penalty::mask_multiply(x, mask, slope, out, rows, width, stream);
}

int fedsyn_mask_multiply_bf16(const uint16_t* x, const uint32_t* mask, float slope, uint16_t* out,
                              int64_t rows, int64_t width, void* stream) {
    using namespace fedsyn::gradient_penalty;
    return mask_multiply(bfloat16(x), mask, slope, bfloat16(out), rows, width, stream);
}
