// Arithmetic and reductions of groups of lanes within a warp.
#pragma once

namespace fedsyn {

// log2 of a positive normal number by the special-function unit: absolute error 2^-22 near 1, else
// relative. One instruction, where logf() is a polynomial of about thirty.
__device__ inline float fast_log2(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ inline float natural_log(float x) {
    return 0.693147181f * fast_log2(x);
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

// The sum over a group of `kLanes` neighbouring lanes, by a fixed butterfly: the same bits in every
// lane and every run. Only the group's own lanes need to arrive.
template <int kLanes, class T>
__device__ inline T group_sum(T x) {
    static_assert(kLanes <= 32 && (kLanes & (kLanes - 1)) == 0);
    constexpr unsigned kGroup = kLanes == 32 ? ~0u : (1u << kLanes) - 1;
    const unsigned mask = kGroup << (threadIdx.x % 32 / kLanes * kLanes);
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) x += __shfl_xor_sync(mask, x, step, kLanes);
    return x;
}

}  // namespace fedsyn
