// Symmetric InfoNCE on the CPU, in memory linear in the number of rows.
//
//   S = s x y^T,  r_i = lse_j S_ij,  c_j = lse_i S_ij,  L = mean_i [(r_i + c_i)/2 - S_ii]
//   dS_ij = 1/(2B) [e^(S_ij - r_i) + e^(S_ij - c_j)] - 1/B [i = j]
//   dx = s dS y,  dy = s dS^T x,  ds = sum_i x_i . (dS y)_i
//
// Only r and c are kept for the backward pass, which computes S again, block by block. One block of
// S serves the softmax of the rows and that of the columns.
//
// Every sum has a fixed order: results do not depend on the number of threads.
#pragma once

#include <cstdint>

#include "kernels/common/bfloat16.h"
#include "kernels/common/isa.h"

namespace fedsyn::info_nce {

// One client or many. The partner of row i of x is row i + offset of y, where there is one.
template <class T>
struct Problem {
    const T* x;          // [clients, m, width]
    const T* y;          // [clients, n, width]
    const float* scale;  // [clients]
    const bool* valid;   // [clients, m] rows of both sides that take part, or null: all. With it,
                         // m = n and offset = 0.
    std::int64_t clients;
    std::int64_t m;
    std::int64_t n;
    std::int64_t width;
    std::int64_t offset;
};

// rows [clients, m] = r and columns [clients, n] = c, 0 where a row takes no part; and, where it is
// not null, loss [clients], for which m = n and offset = 0.
template <class T>
void forward(const Problem<T>& problem, float* rows, float* columns, float* loss, int threads,
             Isa isa);

// grad [clients]: the gradient of a loss that is the mean over x's rows that take part.
// dx [clients, m, width], dy [clients, n, width], dscale [clients].
template <class T>
void backward(const Problem<T>& problem, const float* grad, const float* rows, const float* columns,
              T* dx, T* dy, float* dscale, int threads, Isa isa);

}  // namespace fedsyn::info_nce
