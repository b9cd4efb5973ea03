// A critic's losses and their exact gradient on the CPU, without double backward.
//
//   critic   A_0 = x,  Z_l = A_{l-1} W_l + b_l,  D_l = (Z_l > 0 ? 1 : slope),  A_l = D_l Z_l,
//            f = A_{L-1} W_L + b_L
//   to rows  G_L = e,  G_l = D_l (G_{l+1} W_{l+1}^T),  g = G_1 W_1^T
//   penalty  n = max(|g|, 1e-12),  P = mean (n - 1)^2,  U = lambda 2/B (1 - 1/n) g
//   adjoint  R_0 = U,  R_l = D_l (R_{l-1} W_l)
//   weights  dW_l = [A_{l-1} of real and fake; R_{l-1} of between]^T G_l,  db_l = sum G_l of real
//            and fake
//
// with e = -1/B at the real rows, 1/B at the fake and 1 at those between. One pass over the stacked
// rows gives the gradient of mean f(fake) - mean f(real) + lambda P (Gulrajani et al. 2017, eq. 3);
// the last bias cancels in it.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"

namespace fedsyn::gradient_penalty {

// The widths are of x, the hidden layers and the score, [layers + 1], the last 1. weights[l]
// [widths[l], widths[l + 1]] and biases[l] [widths[l + 1]] are the first client's; the next
// client's lie a stride of floats further.
struct Critic {
    std::int64_t layers;
    const std::int64_t* widths;
    const float* const* weights;
    const std::int64_t* weight_strides;
    const float* const* biases;
    const std::int64_t* bias_strides;
    float slope;
};

// [clients, rows, widths[0]] each; real and fake may be absent, or between.
struct Batch {
    const float* real;
    const float* fake;
    const float* between;
    std::int64_t clients;
    std::int64_t rows;
};

// loss, penalty: [clients]; loss = mean f(fake) - mean f(real) + weight * penalty. The gradient of
// the loss, if not null, is [clients, parameters]: w_1, b_1, w_2, b_2, ..., or the weights alone
// where there are no real and fake rows. A client's results depend neither on the number of threads
// nor on the other clients.
void critic_step(const Critic& critic, const Batch& batch, float weight, float* loss,
                 float* penalty, float* gradient, int threads, Isa isa);

// ---- Between cpu.cpp and driver.cpp ------------------------------------------------------------

// What every instruction set has.
struct Kernels {
    std::int64_t (*scratch)(const Critic&, const Batch&);  // floats
    // Rows [begin, end) of one client: sums [2] of f(fake) - f(real) and of (n - 1)^2, and their
    // share of the gradient if that is not null.
    void (*rows)(const Critic&, const Batch&, std::int64_t client, std::int64_t begin,
                 std::int64_t end, float weight, double* sums, float* gradient, float* scratch);
};

}  // namespace fedsyn::gradient_penalty

FEDSYN_KERNELS(gradient_penalty::Kernels, kGradientPenaltyKernels)
