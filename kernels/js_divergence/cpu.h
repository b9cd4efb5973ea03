// The Jensen-Shannon divergence of rows on the CPU; formula.h has the mathematics.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"

namespace fedsyn::js_divergence {

// p, q: [rows, k] -> out: [rows]. Results do not depend on the number of threads.
template <class T>
void forward(const T* p, const T* q, T* out, std::int64_t rows, std::int64_t k, int threads,
             Isa isa);

// grad: [rows]; p, q: [rows, k] -> grad_p, grad_q: [rows, k].
template <class T>
void backward(const T* grad, const T* p, const T* q, T* grad_p, T* grad_q, std::int64_t rows,
              std::int64_t k, int threads, Isa isa);

// ---- Between cpu.cpp and driver.cpp ------------------------------------------------------------

// What every instruction set has: the above for one thread's rows.
template <class T>
struct Kernels {
    void (*forward)(const T* p, const T* q, T* out, std::int64_t rows, std::int64_t k);
    void (*backward)(const T* grad, const T* p, const T* q, T* grad_p, T* grad_q, std::int64_t rows,
                     std::int64_t k);
};

}  // namespace fedsyn::js_divergence

FEDSYN_KERNELS(js_divergence::Kernels<float>, kJsDivergenceKernels)
FEDSYN_KERNELS(js_divergence::Kernels<double>, kJsDivergenceFloat64Kernels)
