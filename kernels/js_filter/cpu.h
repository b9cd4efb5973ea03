// By whose prototypes two modalities disagree least, on the CPU.
//
//   p = softmax_k(s x . px_k),  q = softmax_k(s y . py_k),  divergence = min over clients JSD(p, q)
//   assignment = argmax_k s (x . px_k + y . py_k)           with the prototypes of that client
//
// A client whose ln 2 h^2 is above another's h^2 cannot win (kernels/js_divergence/formula.h), and
// h^2 comes with the sums of the softmaxes. Only for the others is the divergence computed, always
// by the same instructions in the same order: leaving clients out changes no bit, and neither does
// the number of threads.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"

namespace fedsyn::js_filter {

struct Problem {
    const float* x;             // [rows, width]
    const float* y;             // [rows, width]
    const float* prototypes_x;  // [clients, prototypes, width]
    const float* prototypes_y;  // [clients, prototypes, width]
    const bool* valid;          // [clients, prototypes] prototypes that exist, or null: all
    std::int64_t rows;
    std::int64_t clients;
    std::int64_t prototypes;
    std::int64_t width;
    float scale;
};

// divergence, client, assignment: [rows]; `client` may be null. Of equals the first. Clients
// without a prototype take no part: infinite where nobody has one. NaN where an operand is not a
// number. Indices are in range even then.
void filter(const Problem& problem, float* divergence, std::int64_t* client,
            std::int64_t* assignment, int threads, Isa isa);

}  // namespace fedsyn::js_filter
