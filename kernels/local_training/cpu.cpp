// Compiled once per instruction set: see kernels/common/simd.h.
#include "kernels/local_training/cpu.h"

#include <cmath>

#include "kernels/common/simd.h"

namespace fedsyn::FEDSYN_ISA {
namespace {

using namespace local_training;

constexpr int kVector = kLanes<float>;
constexpr float kSmoothing = 0.99f;  // of rmsprop

// Calls body(first, lanes) for the vectors that cover [0, count).
template <class Body>
void vectors(std::int64_t count, Body body) {
    std::int64_t i = 0;
    for (; i + kVector <= count; i += kVector) body(i, kVector);
    if (i < count) body(i, static_cast<int>(count - i));
}

void adam(const Optimizer& by, std::int64_t step, std::int64_t size, const float* gradient,
          float* params, const Moments& moments) {
    const double count = static_cast<double>(step);
    const auto rate = static_cast<float>(by.lr / (1 - std::pow(double{by.beta1}, count)));
    const auto root = static_cast<float>(1 / std::sqrt(1 - std::pow(double{by.beta2}, count)));
    const float keep = by.beta2, take1 = 1 - by.beta1, take2 = 1 - by.beta2,
                decay = by.weight_decay;
    const float eps = by.eps;
    vectors(size, [=](std::int64_t i, int lanes) {
        const Floats w = load(params + i, lanes);
        const Floats g = load(gradient + i, lanes) + decay * w;
        Floats m = load(moments.first + i, lanes);
        m += take1 * (g - m);
        const Floats v = keep * load(moments.second + i, lanes) + take2 * g * g;
        store(moments.first + i, m, lanes);
        store(moments.second + i, v, lanes);
        store(params + i, w - rate * m / (sqrt(v) * root + eps), lanes);
    });
}

void sgd(const Optimizer& by, std::int64_t, std::int64_t size, const float* gradient, float* params,
         const Moments& moments) {
    const float lr = by.lr, momentum = by.momentum, decay = by.weight_decay;
    vectors(size, [=](std::int64_t i, int lanes) {
        const Floats w = load(params + i, lanes);
        Floats g = load(gradient + i, lanes) + decay * w;
        if (moments.first) {
            g += momentum * load(moments.first + i, lanes);
            store(moments.first + i, g, lanes);
        }
        store(params + i, w - lr * g, lanes);
    });
}

void rmsprop(const Optimizer& by, std::int64_t, std::int64_t size, const float* gradient,
             float* params, const Moments& moments) {
    const float lr = by.lr, decay = by.weight_decay, eps = by.eps;
    vectors(size, [=](std::int64_t i, int lanes) {
        const Floats w = load(params + i, lanes);
        const Floats g = load(gradient + i, lanes) + decay * w;
        const Floats v = kSmoothing * load(moments.second + i, lanes) + (1 - kSmoothing) * g * g;
        store(moments.second + i, v, lanes);
        store(params + i, w - lr * g / (sqrt(v) + eps), lanes);
    });
}

}  // namespace

extern constexpr Kernels kLocalTrainingKernels{adam, sgd, rmsprop};

}  // namespace fedsyn::FEDSYN_ISA
