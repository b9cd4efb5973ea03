// Arithmetic and reductions of groups of lanes within a warp, and of a block.
#pragma once

namespace fedsyn {

constexpr float kLog2E = 1.44269504f;
constexpr float kLn2 = 0.693147181f;

// log2 of a positive normal number by the special-function unit: absolute error 2^-22 near 1, else
// relative. One instruction, where logf() is a polynomial of about thirty.
__device__ inline float fast_log2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 2^x by the special-function unit: relative error 2^-22; 0 for -infinity.
__device__ inline float fast_exp2(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ inline float natural_log(float x) {
    return kLn2 * fast_log2(x);
}

__device__ inline double natural_log(double x) {
    return log(x);
}

// 1/x of a normal number, to one unit in the last place.
__device__ inline float reciprocal(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ inline double reciprocal(double x) {
    return 1.0 / x;
}

// Combines the values of a group of `kLanes` neighbouring lanes by a fixed butterfly: the same bits
// in every lane and every run, if `combine` is symmetric. Only the group's own lanes need to
// arrive.
template <int kLanes, class T, class Combine>
__device__ inline T group_reduce(T x, Combine combine) {
    static_assert(kLanes <= 32 && (kLanes & (kLanes - 1)) == 0);
    constexpr unsigned kGroup = kLanes == 32 ? ~0u : (1u << kLanes) - 1;
    const unsigned mask = kGroup << (threadIdx.x % 32 / kLanes * kLanes);
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
        x = combine(x, __shfl_xor_sync(mask, x, step, kLanes));
    }
    return x;
}

template <int kLanes, class T>
__device__ inline T group_sum(T x) {
    return group_reduce<kLanes>(x, [](T a, T b) { return a + b; });
}

template <int kLanes>
__device__ inline float group_max(float x) {
    return group_reduce<kLanes>(x, [](float a, float b) { return fmaxf(a, b); });
}

template <int kLanes>
__device__ inline float group_min(float x) {
    return group_reduce<kLanes>(x, [](float a, float b) { return fminf(a, b); });
}

// Of a group of lanes, the value that stands first in the order `before`, and the index that goes
// with it; equals go to the lower index.
template <int kLanes, class Before>
__device__ inline void group_first(float& value, int& index, Before before) {
    static_assert(kLanes <= 32 && (kLanes & (kLanes - 1)) == 0);
    constexpr unsigned kGroup = kLanes == 32 ? ~0u : (1u << kLanes) - 1;
    const unsigned mask = kGroup << (threadIdx.x % 32 / kLanes * kLanes);
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) {
        const float other = __shfl_xor_sync(mask, value, step, kLanes);
        const int at = __shfl_xor_sync(mask, index, step, kLanes);
        if (before(other, value) || (other == value && at < index)) {
            value = other;
            index = at;
        }
    }
}

// The sum over a block of `kThreads`, in a fixed order, in every thread.
template <int kThreads>
__device__ inline float block_sum(float x) {
    static_assert(kThreads % 32 == 0 && kThreads <= 1024);
    __shared__ float of_warps[kThreads / 32];
    x = group_sum<32>(x);
    __syncthreads();  // the last call's sums have been read
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = x;
    __syncthreads();
    float total = 0;
    for (int warp = 0; warp < kThreads / 32; ++warp) total += of_warps[warp];
    return total;
}

}  // namespace fedsyn
