// Which of many reference distributions a distribution diverges least from, on the CPU.
//
//   divergence_n = min over clients c of JSD(p_n, q_c)
//
// In three steps, each for the clients that the one before left over: ln 2 h^2 <= JSD <= h^2, all
// h^2 by one matrix product (kernels/js_divergence/formula.h); the divergence by entropies, which
// costs one logarithm a term, but no more than the slack of rounding; the divergence as
// js_divergence computes it. So leaving clients out changes no bit, and neither does the number of
// threads.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"

namespace fedsyn::js_nearest {

struct Problem {
    const float* p;  // [rows, k]
    const float* q;  // [clients, k]
    std::int64_t rows;
    std::int64_t clients;
    std::int64_t k;
};

// divergence, client: [rows]. Of equals the first. NaN where p, or any client, is not a number.
void nearest(const Problem& problem, float* divergence, std::int64_t* client, int threads, Isa isa);

}  // namespace fedsyn::js_nearest
