// Vectors of floats as wide as the registers of the instruction set being compiled for.
//
// Arithmetic, comparison and `mask ? a : b` are those of the compiler's vector extension, so one
// text serves SSE, AVX2, AVX-512 and NEON; only masked memory access is spelled out. `double` is a
// vector of one lane: the same kernel template serves both. A `Pair` holds two bfloat16 neighbours;
// a vector of pairs has as many lanes as one of floats.
//
// Every file that includes this is compiled once per instruction set. All of it therefore lives in
// the namespace FEDSYN_ISA and uses no inline functions of the standard library: the linker keeps
// one copy of those, and that copy could hold instructions that the processor lacks.
#pragma once

#ifndef FEDSYN_ISA
#error "FEDSYN_ISA must name the instruction set, e.g. -DFEDSYN_ISA=avx2"
#endif

#ifdef __AVX2__
#include <immintrin.h>
#endif

#include "kernels/common/bfloat16.h"

namespace fedsyn::FEDSYN_ISA {

#if defined(__AVX512F__)
inline constexpr int kRegisterBytes = 64;
#elif defined(__AVX2__)
inline constexpr int kRegisterBytes = 32;
#else
inline constexpr int kRegisterBytes = 16;
#endif

using Floats = float __attribute__((vector_size(kRegisterBytes)));
using Ints = int __attribute__((vector_size(kRegisterBytes)));

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
    using type = Floats;
};
template <>
struct VectorOf<double> {
    using type = double;
};
template <>
struct VectorOf<Pair> {
    using type = Ints;
};
template <class T>
using Vector = typename VectorOf<T>::type;  // the vector whose elements are T

template <class T>
inline constexpr int kLanes = sizeof(Vector<T>) / sizeof(T);

template <class T>
inline Vector<T> broadcast(T value) {
    return value - Vector<T>{};  // x + 0 would be an instruction: it turns -0 into 0
}

inline Ints broadcast(Pair pair) {
    return Ints{} + pair.bits;
}

template <class T>
inline Vector<T> load(const T* from) {
    Vector<T> value;
    __builtin_memcpy(&value, from, sizeof value);
    return value;
}

template <class T>
inline void store(T* to, Vector<T> value) {
    __builtin_memcpy(to, &value, sizeof value);
}

#if defined(__AVX2__) && !defined(__AVX512F__)
// All bits set in the first `count` lanes.
inline __m256i first_lanes(int count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
#endif

// The first `count` lanes, 0 < count <= kLanes; the rest are zero and their memory is not touched.
inline Floats load(const float* from, int count) {
    if (count == kLanes<float>) return load(from);
#if defined(__AVX512F__)
    return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), from);
#elif defined(__AVX2__)
    return _mm256_maskload_ps(from, first_lanes(count));
#else
    Floats value{};
    for (int lane = 0; lane < count; ++lane) value[lane] = from[lane];
    return value;
#endif
}

inline void store(float* to, Floats value, int count) {
    if (count == kLanes<float>) return store(to, value);
#if defined(__AVX512F__)
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>((1u << count) - 1), value);
#elif defined(__AVX2__)
    _mm256_maskstore_ps(to, first_lanes(count), value);
#else
    for (int lane = 0; lane < count; ++lane) to[lane] = value[lane];
#endif
}

inline Ints load(const Pair* from, int count) {
    return __builtin_bit_cast(Ints, load(reinterpret_cast<const float*>(from), count));
}

inline double load(const double* from, int) {
    return *from;
}

inline void store(double* to, double value, int) {
    *to = value;
}

// 0, 1, 2, ...
inline Ints lane_numbers() {
    Ints numbers{};
    for (int lane = 0; lane < kLanes<float>; ++lane) numbers[lane] = lane;
    return numbers;
}

// Bit i is whether lane i of a comparison's result is true.
inline unsigned true_lanes(Ints truth) {
#if defined(__AVX512F__)
    return _mm512_test_epi32_mask(__builtin_bit_cast(__m512i, truth),
                                  __builtin_bit_cast(__m512i, truth));
#elif defined(__AVX2__)
    return static_cast<unsigned>(_mm256_movemask_ps(__builtin_bit_cast(__m256, truth)));
#else
    unsigned bits = 0;
    for (int lane = 0; lane < kLanes<float>; ++lane) bits |= (truth[lane] & 1u) << lane;
    return bits;
#endif
}

// How many bits of each lane are set.
inline Ints popcount(Ints x) {
#ifdef __AVX512VPOPCNTDQ__
    return __builtin_bit_cast(Ints, _mm512_popcnt_epi32(__builtin_bit_cast(__m512i, x)));
#else
    // Sums of ever wider fields, within the lanes.
    using Fields = unsigned __attribute__((vector_size(kRegisterBytes)));
    Fields bits = __builtin_bit_cast(Fields, x);
    bits = bits - ((bits >> 1) & 0x55555555u);
    bits = (bits & 0x33333333u) + ((bits >> 2) & 0x33333333u);
    bits = (bits + (bits >> 4)) & 0x0f0f0f0fu;
    bits = bits + (bits >> 8);
    return __builtin_bit_cast(Ints, (bits + (bits >> 16)) & 0x3fu);
#endif
}

inline Floats multiply_add(Floats a, Floats b, Floats sum) {
    return a * b + sum;
}

// Both products of the pairs are added.
inline Floats multiply_add(Ints a, Ints b, Floats sum) {
#ifdef __AVX512BF16__
    return _mm512_dpbf16_ps(sum, __builtin_bit_cast(__m512bh, a), __builtin_bit_cast(__m512bh, b));
#else
    constexpr int kUpper = -65536;
    const auto lower = [](Ints pair) { return __builtin_bit_cast(Floats, pair << 16); };
    const auto upper = [](Ints pair) { return __builtin_bit_cast(Floats, pair & kUpper); };
    return upper(a) * upper(b) + (lower(a) * lower(b) + sum);
#endif
}

// The larger of both; `floor` where x is not a number.
template <class V>
inline V at_least(V floor, V x) {
    return x > floor ? x : floor;
}

// Square roots, correctly rounded; NaN for negative numbers.
inline Floats sqrt(Floats x) {
#if defined(__AVX512F__)
    return _mm512_maskz_sqrt_ps(0xffff, x);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(x);
#else
    for (int lane = 0; lane < kLanes<float>; ++lane) x[lane] = __builtin_sqrtf(x[lane]);
    return x;
#endif
}

// The sum over the lanes, in the fixed order of a halving tree.
inline float sum(Floats x) {
    using Quad = float __attribute__((vector_size(16)));
    constexpr int count = kLanes<float> / 4;
    Quad quad[count];
    __builtin_memcpy(quad, &x, sizeof x);
    for (int half = count / 2; half > 0; half /= 2) {
        for (int i = 0; i < half; ++i) quad[i] += quad[i + half];
    }
    return (quad[0][0] + quad[0][2]) + (quad[0][1] + quad[0][3]);
}

inline double sum(double x) {
    return x;
}

// Alternately the lanes of the lower halves of a and b, or of their upper halves.
template <bool kUpper>
inline Floats interleave(Floats a, Floats b) {
    constexpr int n = kLanes<float>, from = kUpper ? n / 2 : 0;
#if defined(__AVX512F__)
    return __builtin_shufflevector(a, b, from, from + n, from + 1, from + 1 + n, from + 2,
                                   from + 2 + n, from + 3, from + 3 + n, from + 4, from + 4 + n,
                                   from + 5, from + 5 + n, from + 6, from + 6 + n, from + 7,
                                   from + 7 + n);
#elif defined(__AVX2__)
    return __builtin_shufflevector(a, b, from, from + n, from + 1, from + 1 + n, from + 2,
                                   from + 2 + n, from + 3, from + 3 + n);
#else
    return __builtin_shufflevector(a, b, from, from + n, from + 1, from + 1 + n);
#endif
}

// Lane j of vector i becomes lane i of vector j.
inline void transpose(Floats (&square)[kLanes<float>]) {
    constexpr int kHalf = kLanes<float> / 2;
    for (int done = 1; done < kLanes<float>; done *= 2) {
        Floats next[kLanes<float>];
#pragma GCC unroll 16
        for (int i = 0; i < kHalf; ++i) {
            next[2 * i] = interleave<false>(square[i], square[i + kHalf]);
            next[2 * i + 1] = interleave<true>(square[i], square[i + kHalf]);
        }
#pragma GCC unroll 16
        for (int i = 0; i < kLanes<float>; ++i) square[i] = next[i];
    }
}

// Natural logarithm of positive normal numbers, to 1e-7 of max(|log x|, |x - 1|).
//
// x = 2^e m with m in [sqrt(1/2), sqrt(2)); log(m) by the polynomial of Cephes' logf (Moshier
// 1992), and ln 2 in two parts, of which e times the first is exact.
inline Floats log(Floats x) {
    constexpr int kSqrtHalf = 0x3f3504f3;
    const Ints bits = __builtin_bit_cast(Ints, x);
    const Ints exponent = (bits - kSqrtHalf) >> 23;
    const Floats e = __builtin_convertvector(exponent, Floats);
    const Floats f = __builtin_bit_cast(Floats, bits - (exponent << 23)) - 1.0f;
    const Floats f2 = f * f;
    Floats y = 7.0376836292e-2f * f - 1.1514610310e-1f;
    y = y * f + 1.1676998740e-1f;
    y = y * f - 1.2420140846e-1f;
    y = y * f + 1.4249322787e-1f;
    y = y * f - 1.6668057665e-1f;
    y = y * f + 2.0000714765e-1f;
    y = y * f - 2.4999993993e-1f;
    y = y * f + 3.3333331174e-1f;
    y = y * f * f2 - 2.12194440e-4f * e - 0.5f * f2;
    return 0.693359375f * e + (f + y);
}

inline double log(double x) {
    return __builtin_log(x);
}

// e^x, to 2e-7 of itself; 0 below -86.5 (where e^x leaves the normal numbers) and for -infinity,
// and no more than e^88 for what is greater than 88.
//
// x = n ln 2 + r with |r| <= ln 2 / 2; e^r by the polynomial of Cephes' expf (Moshier 1992). Adding
// and subtracting 3 * 2^22 rounds to the nearest integer.
inline Floats exp(Floats x) {
    constexpr float kRound = 12582912.0f;
    constexpr float kLeast = -86.5f;
    const Floats bounded = x > 88.0f ? broadcast(88.0f) : (x < kLeast ? broadcast(kLeast) : x);
    const Floats n = (bounded * 1.44269504f + kRound) - kRound;
    const Floats r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    Floats y = 1.9875691500e-4f * r + 1.3981999507e-3f;
    y = y * r + 8.3334519073e-3f;
    y = y * r + 4.1665795894e-2f;
    y = y * r + 1.6666665459e-1f;
    y = y * r + 5.0000001201e-1f;
    y = y * r * r + r + 1.0f;
    const Ints scaled = __builtin_bit_cast(Ints, y) + (__builtin_convertvector(n, Ints) << 23);
    return x < kLeast ? Floats{} : __builtin_bit_cast(Floats, scaled);
}

// tanh x, to 3e-7 of itself; NaN gives NaN.
//
// By the polynomial of Cephes' tanhf (Moshier 1992) near zero, where 1 - 2 / (e^2x + 1) cancels.
inline Floats tanh(Floats x) {
    const Floats length = x < 0.0f ? -x : x;
    const Floats x2 = x * x;
    Floats y = 2.06390887954e-2f - 5.70498872745e-3f * x2;
    y = y * x2 - 5.37397155531e-2f;
    y = y * x2 + 1.33314422036e-1f;
    y = y * x2 - 3.33332819422e-1f;
    const Floats near = y * x2 * x + x;
    const Floats far = 1.0f - 2.0f / (exp(2.0f * length) + 1.0f);
    return length < 0.625f ? near : (x < 0.0f ? -far : far);
}

// 2^x for |x| <= 125, to 2e-7 of itself; NaN gives NaN.
//
// x = n + f with |f| <= 1/2; 2^f by its series. Adding 3 * 2^22 leaves n in the low bits.
inline Floats exp2_bounded(Floats x) {
    constexpr float kRound = 12582912.0f;
    const Floats shifted = x + kRound;
    const Floats f = x - (shifted - kRound);
    Floats y = 1.5403530e-4f * f + 1.3333558e-3f;
    y = y * f + 9.6181291e-3f;
    y = y * f + 5.5504109e-2f;
    y = y * f + 2.4022651e-1f;
    y = y * f + 6.9314718e-1f;
    y = y * f + 1.0f;
    return __builtin_bit_cast(
        Floats, __builtin_bit_cast(Ints, y) + (__builtin_bit_cast(Ints, shifted) << 23));
}

// The largest lane.
inline float largest(Floats x) {
    float value = x[0];
    for (int lane = 1; lane < kLanes<float>; ++lane) value = x[lane] > value ? x[lane] : value;
    return value;
}

}  // namespace fedsyn::FEDSYN_ISA
