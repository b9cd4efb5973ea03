// The Jensen-Shannon divergence of rows on the GPU; formula.h has the mathematics.
//
// A group of 8 or 32 lanes takes a row, so a warp takes four short rows or one long one. The work
// is bound by memory: rows whose alignment allows it are read 16 bytes a lane.
#include <cstdint>

#include "kernels/common/launch.cuh"
#include "kernels/common/warp.cuh"
#include "kernels/js_divergence/cuda.h"
#include "kernels/js_divergence/formula.h"
#include "kernels/js_divergence/term.cuh"

namespace fedsyn::js_divergence {
namespace {

constexpr int kThreads = 256;
constexpr int kBlocksPerSm = 5;  // 48 registers a thread: left to itself, ptxas takes 32 and spills
constexpr std::int64_t kShortRow = 32;

template <class T, int kLanes, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    forward_kernel(const T* __restrict__ p, const T* __restrict__ q, T* __restrict__ out,
                   std::int64_t rows, std::int64_t k) {
    using Packed = Pack<T, kPack>;
    const int lane = threadIdx.x % kLanes;
    const std::int64_t packs = k / kPack;
    const std::int64_t groups = std::int64_t{gridDim.x} * (kThreads / kLanes);
    std::int64_t row = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanes;
    for (; row < rows; row += groups) {
        const auto* p_row = reinterpret_cast<const Packed*>(p + row * k);
        const auto* q_row = reinterpret_cast<const Packed*>(q + row * k);
        T total = 0;
        for (std::int64_t i = lane; i < packs; i += kLanes) {
            const Packed a = p_row[i];
            const Packed b = q_row[i];
#pragma unroll
            for (int j = 0; j < kPack; ++j) total += term(a.at[j], b.at[j]);
        }
        total = group_sum<kLanes>(total);
        if (lane == 0) out[row] = divergence_of(total);
    }
}

template <class T, int kLanes, int kPack>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    backward_kernel(const T* __restrict__ grad, const T* __restrict__ p, const T* __restrict__ q,
                    T* __restrict__ grad_p, T* __restrict__ grad_q, std::int64_t rows,
                    std::int64_t k) {
    using C = Constants<T>;
    using Packed = Pack<T, kPack>;
    const int lane = threadIdx.x % kLanes;
    const std::int64_t packs = k / kPack;
    const std::int64_t groups = std::int64_t{gridDim.x} * (kThreads / kLanes);
    std::int64_t row = (std::int64_t{blockIdx.x} * kThreads + threadIdx.x) / kLanes;
    for (; row < rows; row += groups) {
        const T half_grad = T{0.5} * grad[row];
        const auto* p_row = reinterpret_cast<const Packed*>(p + row * k);
        const auto* q_row = reinterpret_cast<const Packed*>(q + row * k);
        auto* grad_p_row = reinterpret_cast<Packed*>(grad_p + row * k);
        auto* grad_q_row = reinterpret_cast<Packed*>(grad_q + row * k);
        for (std::int64_t i = lane; i < packs; i += kLanes) {
            const Packed a = p_row[i];
            const Packed b = q_row[i];
            Packed da, db;
#pragma unroll
            for (int j = 0; j < kPack; ++j) {
                const T m = a.at[j] + b.at[j];
                const T scale = 2 * reciprocal(max(m, C::kTiny));
                const T to_p = half_grad * natural_log(max(a.at[j] * scale, C::kTiny));
                const T to_q = half_grad * natural_log(max(b.at[j] * scale, C::kTiny));
                // m itself is the answer where it is zero, and where it is not a number.
                da.at[j] = m > 0 ? to_p : m;
                db.at[j] = m > 0 ? to_q : m;
            }
            grad_p_row[i] = da;
            grad_q_row[i] = db;
        }
    }
}

template <class T>
int forward(const T* p, const T* q, T* out, std::int64_t rows, std::int64_t k, void* stream) {
    const bool short_rows = k <= kShortRow;
    const auto run = [&](auto* kernel, int lanes) {
        return launch(kernel, ceil_div(rows, kThreads / lanes), kThreads, stream, p, q, out, rows,
                      k);
    };
    if (k % kWidest<T> == 0 && aligned(p, q)) {
        return short_rows ? run(forward_kernel<T, 8, kWidest<T>>, 8)
                          : run(forward_kernel<T, 32, kWidest<T>>, 32);
    }
    return short_rows ? run(forward_kernel<T, 8, 1>, 8) : run(forward_kernel<T, 32, 1>, 32);
}

template <class T>
int backward(const T* grad, const T* p, const T* q, T* grad_p, T* grad_q, std::int64_t rows,
             std::int64_t k, void* stream) {
    const bool short_rows = k <= kShortRow;
    const auto run = [&](auto* kernel, int lanes) {
        return launch(kernel, ceil_div(rows, kThreads / lanes), kThreads, stream, grad, p, q,
                      grad_p, grad_q, rows, k);
    };
    if (k % kWidest<T> == 0 && aligned(p, q, grad_p, grad_q)) {
        return short_rows ? run(backward_kernel<T, 8, kWidest<T>>, 8)
                          : run(backward_kernel<T, 32, kWidest<T>>, 32);
    }
    return short_rows ? run(backward_kernel<T, 8, 1>, 8) : run(backward_kernel<T, 32, 1>, 32);
}

}  // namespace
}  // namespace fedsyn::js_divergence

int fedsyn_js_divergence_f32(const float* p, const float* q, float* out, int64_t rows, int64_t k,
                             void* stream) {
    return fedsyn::js_divergence::forward(p, q, out, rows, k, stream);
}

int fedsyn_js_divergence_f64(const double* p, const double* q, double* out, int64_t rows, int64_t k,
                             void* stream) {
    return fedsyn::js_divergence::forward(p, q, out, rows, k, stream);
}

int fedsyn_js_divergence_backward_f32(const float* grad, const float* p, const float* q,
                                      float* grad_p, float* grad_q, int64_t rows, int64_t k,
                                      void* stream) {
    return fedsyn::js_divergence::backward(grad, p, q, grad_p, grad_q, rows, k, stream);
}

int fedsyn_js_divergence_backward_f64(const double* grad, const double* p, const double* q,
                                      double* grad_p, double* grad_q, int64_t rows, int64_t k,
                                      void* stream) {
    return fedsyn::js_divergence::backward(grad, p, q, grad_p, grad_q, rows, k, stream);
}
