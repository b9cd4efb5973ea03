// Constants that the CPU and CUDA forms of the Jensen-Shannon divergence share.
//
//   JSD(p, q)   = 1/2 sum_k p_k ln(2 p_k / m_k) + q_k ln(2 q_k / m_k),    m = p + q
//               = 1/4 sum_k m_k phi(d_k),                                 d = (p - q) / m
//   phi(d)      = (1 + d) ln(1 + d) + (1 - d) ln(1 - d)
//               = d^2 + d^4/6 + d^6/15 + d^8/28 + d^10/45 + ...
//   dJSD/dp_k   = 1/2 ln(2 p_k / m_k),     dJSD/dq_k = 1/2 ln(2 q_k / m_k)
//
// The series takes over where d is small: there the logarithms cancel to second order, while every
// term of the series is non-negative, so even tiny divergences keep their relative accuracy.
//
// The squared Hellinger distance has the same form, so that one matrix product bounds divergences:
//
//   h^2       = 1/2 sum_k p_k + q_k - sum_k sqrt(p_k q_k) = 1/4 sum_k m_k theta(d_k)
//   theta(d)  = 2 (1 - sqrt(1 - d^2)) = d^2 + d^4/4 + d^6/8 + 5 d^8/64 + ...
//   ln 2 h^2 <= JSD <= h^2
//
// as no coefficient of phi is greater than that of theta and their ratio only decreases: phi/theta
// falls from 1 at d = 0 to phi(1)/theta(1) = ln 2.
//
// The ratio 2p/m is floored at the smallest normal number. That makes 0 ln 0 = 0 without a branch,
// and is the convention of the gradient at p_k = 0 < q_k, which is -infinity on paper.
#pragma once

namespace fedsyn::js_divergence {

template <class T>
struct Constants;

template <>
struct Constants<float> {
    static constexpr float kTiny = 1.17549435e-38f;
    static constexpr float kSeriesBelow = 1.0f / 16.0f;  // of d^2: the next term is 2e-8 of the sum
    static constexpr float kLn2 = 0.69314712f;           // rounded down: a bound that really holds
};

template <>
struct Constants<double> {
    static constexpr double kTiny = 2.2250738585072014e-308;
    static constexpr double kSeriesBelow = 1.0 / 1024.0;
    static constexpr double kLn2 = 0.69314718055994530;
};

}  // namespace fedsyn::js_divergence
