// A bin's share of the Jensen-Shannon divergence; formula.h has the mathematics.
#pragma once

#include "kernels/common/warp.cuh"
#include "kernels/js_divergence/formula.h"

namespace fedsyn::js_divergence {

// p ln(2p/m) + q ln(2q/m).
template <class T>
__device__ inline T term(T p, T q) {
    using C = Constants<T>;
    const T m = max(p + q, C::kTiny);
    const T half_scale = reciprocal(m);
    const T scale = 2 * half_scale;
    const T d = (p - q) * half_scale;
    const T d2 = d * d;
    T phi = T{1} / 28 + d2 * (T{1} / 45);
    phi = T{1} / 15 + d2 * phi;
    phi = T{1} / 6 + d2 * phi;
    phi = d2 * (T{1} + d2 * phi);
    const T logs =
        p * natural_log(max(p * scale, C::kTiny)) + q * natural_log(max(q * scale, C::kTiny));
    return d2 < C::kSeriesBelow ? T{0.5} * m * phi : logs;
}

// Half the sum of the terms, brought into [0, ln 2].
template <class T>
__device__ inline T divergence_of(T sum_of_terms) {
    const T value = T{0.5} * sum_of_terms;
    // Comparisons in this direction let NaN through.
    const T ceiling = Constants<T>::kLn2;
    return value < 0 ? T{0} : value > ceiling ? ceiling : value;
}

}  // namespace fedsyn::js_divergence
