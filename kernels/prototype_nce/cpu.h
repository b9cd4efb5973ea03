// Cross-entropy of rows against prototypes and its gradient, in one pass on the CPU.
//
//   S = s X P^T,   loss = mean_i [ lse_k S_ik - S_i,target ]
//   dS = (softmax(S) - onehot(target)) / rows,   dX = s dS P,   dP = s dS^T X,   ds = <dS, X P^T>
//
// The softmax needs whole rows only, so a block of rows is done with as soon as its logits are: no
// more than a block of them exists at any time, and nothing is computed twice.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"

namespace fedsyn::prototype_nce {

struct Arguments {
    const float* x;              // [clients, rows, width]
    const float* prototypes;     // [clients, count, width]
    const std::int64_t* target;  // [clients, rows], all < count; negative: the row takes no part
    const float* scales;         // [clients], or null: all have `scale`
    float scale;
    const std::uint8_t* valid;  // [clients, count], or null: all prototypes exist
    float* loss;                // [clients]
    float* to_x;                // as x; this and the next two may be null: not wanted
    float* to_prototypes;       // as prototypes
    float* to_scale;            // [clients]
    std::int64_t clients, rows, count, width;
};

// Rows whose target does not exist take no part either. Results depend neither on the number of
// threads nor on the other clients.
void forward(const Arguments& arguments, int threads, Isa isa);

// ---- Between cpu.cpp and driver.cpp ------------------------------------------------------------

// Every client's rows in fixed groups, whatever the number of threads; each leaves partial sums.
struct Groups {
    std::int64_t rows;     // of one group
    std::int64_t count;    // of one client
    double* loss;          // [clients, count]
    double* to_scale;      // [clients, count]
    float* to_prototypes;  // [clients, count, prototypes, width]
};

// What every instruction set has.
struct Kernels {
    std::int64_t (*scratch)(std::int64_t count, std::int64_t width);  // floats
    // Groups [begin, end) of those of all clients, one client after the other.
    void (*groups)(const Arguments&, const Groups&, std::int64_t begin, std::int64_t end,
                   float* scratch);
};

}  // namespace fedsyn::prototype_nce

FEDSYN_KERNELS(prototype_nce::Kernels, kPrototypeNceKernels)
