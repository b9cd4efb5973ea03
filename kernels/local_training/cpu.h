// Local training of many clients by InfoNCE on the CPU: all steps of a client in one go, so that
// its parameters, moments and gradient stay in the cache from one step to the next.
//
//   every step   x = features[index],  u, v = the two towers of x,  L = InfoNCE(u, v),  g = dL/dw,
//                w = the optimiser's next w
//
// The products and losses are those of kernels/mlp and kernels/info_nce, which have the
// mathematics.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"
#include "kernels/mlp/cpu.h"

namespace fedsyn::local_training {

enum class Rule { adam, sgd, rmsprop };

// As torch.optim has them; moments start at zero.
struct Optimizer {
    Rule rule;
    float lr;
    float beta1;  // of adam
    float beta2;
    float momentum;  // of sgd
    float weight_decay;
    float eps;
};

// Which rows each step of each client looks at: the first sizes[s, c] of index[s, c]; a step
// without any is none.
struct Plan {
    const std::int64_t* index;  // [steps, clients, batch]
    const std::int64_t* sizes;  // [steps, clients]
    std::int64_t steps;
    std::int64_t clients;
    std::int64_t batch;
};

// Trains from the network's parameters, which stay as they are: two towers of one output width.
// trained [clients, parameters], frozen ones as they were; loss [clients], the mean over a client's
// steps. A client's results depend neither on the number of threads nor on the other clients.
void train(const mlp::Network& network, const float* features, const Plan& plan, float scale,
           const Optimizer& optimizer, float* trained, float* loss, int threads, Isa isa);

// ---- Between cpu.cpp and driver.cpp ------------------------------------------------------------

// Of one client's parameters [size].
struct Moments {
    float* first;   // null where the rule has none
    float* second;  // null where the rule has none
};

// Step number `step`, from 1, of `size` parameters.
using Update = void (*)(const Optimizer& optimizer, std::int64_t step, std::int64_t size,
                        const float* gradient, float* params, const Moments& moments);

// What every instruction set has.
struct Kernels {
    Update adam, sgd, rmsprop;
};

}  // namespace fedsyn::local_training

FEDSYN_KERNELS(local_training::Kernels, kLocalTrainingKernels)
