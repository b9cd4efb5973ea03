// The divergence of one pair of rows, term by term, for every instruction set; formula.h has the
// mathematics.
#pragma once

#include <cstdint>

#include "kernels/common/simd.h"
#include "kernels/js_divergence/formula.h"

namespace fedsyn::FEDSYN_ISA {

using js_divergence::Constants;

// p ln(2p/m) + q ln(2q/m) of every lane.
template <class T>
inline Vector<T> terms(Vector<T> p, Vector<T> q) {
    using V = Vector<T>;
    const V tiny = broadcast(Constants<T>::kTiny);
    const V m = at_least(tiny, p + q);
    const V scale = T{2} / m;
    const V d = (p - q) * (T{0.5} * scale);
    const V d2 = d * d;
    V phi = T{1} / 28 + d2 * (T{1} / 45);
    phi = T{1} / 15 + d2 * phi;
    phi = T{1} / 6 + d2 * phi;
    phi = d2 * (T{1} + d2 * phi);
    const V logs = p * log(at_least(tiny, p * scale)) + q * log(at_least(tiny, q * scale));
    return d2 < Constants<T>::kSeriesBelow ? T{0.5} * m * phi : logs;
}

// The sum of value(i, count) over i = 0, lanes, 2 lanes, ... < k; count is less than lanes at the
// end.
template <class T, class Value>
inline T sum_over(std::int64_t k, Value value) {
    constexpr int lanes = kLanes<T>;
    const std::int64_t whole = k - k % lanes;
    Vector<T> total{};
    for (std::int64_t i = 0; i < whole; i += lanes) total += value(i, lanes);
    if (whole < k) total += value(whole, static_cast<int>(k - whole));
    return sum(total);
}

template <class T>
inline T clamp(T value) {
    // Comparisons in this direction let NaN through.
    const T ceiling = Constants<T>::kLn2;
    return value < 0 ? T{0} : value > ceiling ? ceiling : value;
}

// The divergence of two rows.
template <class T>
inline T divergence(const T* p, const T* q, std::int64_t k) {
    return clamp(T{0.5} * sum_over<T>(k, [=](std::int64_t i, int count) {
                     return terms<T>(load(p + i, count), load(q + i, count));
                 }));
}

}  // namespace fedsyn::FEDSYN_ISA
