// What cpu.cpp computes, once per instruction set; driver.cpp puts it together.
#pragma once

#include <cstdint>

#include "kernels/common/bfloat16.h"
#include "kernels/common/isa.h"

namespace fedsyn::info_nce {

// A block of S: with the rows of x and dx beside it, it fills most of a 1 MiB cache.
inline constexpr std::int64_t kBlockRows = 384;
inline constexpr std::int64_t kBlockColumns = 256;

// Up to this bound on |S|, e^S and sums of 2^16 of them are normal numbers: no maximum needs to be
// subtracted, and one exponential serves the rows' softmax and the columns'.
inline constexpr float kUnshifted = 70.0f;

// What a matrix product takes in one step: a float, or two bfloat16.
template <class T>
struct StepOf {
    using type = float;
};
template <>
struct StepOf<Bfloat16> {
    using type = Pair;
};
template <class T>
using Step = typename StepOf<T>::type;
template <class T>
inline constexpr std::int64_t kStep = sizeof(Step<T>) / sizeof(T);

// The rows of one client that take part; `width` is a multiple of kStep.
template <class T>
struct Dense {
    const T* x;  // [m, width]
    const T* y;  // [n, width]
    std::int64_t m;
    std::int64_t n;
    std::int64_t width;
    std::int64_t offset;
    float scale;
    bool shifted;            // whether |S| may exceed kUnshifted
    const Step<T>* packed;   // y by panels of its transpose
    const Step<T>* x_steps;  // [m / kStep, width]: neighbouring rows side by side; for floats,
    const Step<T>* y_steps;  // [n / kStep, width]  the rows themselves
};

// What dS is made of, apart from S: r and c, or weight e^-r and weight e^-c if not shifted.
struct Weights {
    const float* rows;     // [m]
    const float* columns;  // [n]
    float weight;          // the gradient of the loss to S_ii is -2 weight
};

// What every instruction set has.
template <class T>
struct Kernels {
    // Floats that `forward` and `backward` need as scratch.
    std::int64_t scratch;

    // Elements of `packed` for n rows.
    std::int64_t (*packed_size)(std::int64_t n, std::int64_t width);

    // Fills the panels of `packed` that hold rows [first, last); first is a multiple of the panel.
    void (*pack)(const T* rows, std::int64_t width, std::int64_t first, std::int64_t last,
                 Step<T>* packed);

    // Fills rows [first, last) of x_steps or y_steps; first is even.
    void (*interleave)(const T* rows, std::int64_t width, std::int64_t first, std::int64_t last,
                       Step<T>* steps);

    // The largest squared norm of the rows.
    float (*largest_square)(const T* rows, std::int64_t count, std::int64_t width);

    // r of rows [first, last), and their part of the columns' sums: c = max + log(sum).
    void (*forward)(const Dense<T>& at, std::int64_t first, std::int64_t last, float* rows,
                    float* column_max, float* column_sum, float* scratch);

    // c of columns [first, last) from the parts of all groups of rows, which are [groups, n].
    void (*merge)(const float* column_max, const float* column_sum, std::int64_t groups,
                  std::int64_t n, std::int64_t first, std::int64_t last, float* columns);

    // Sum of S_ii over rows [first, last).
    double (*positives)(const Dense<T>& at, std::int64_t first, std::int64_t last);

    // Members of Weights from log-sum-exps.
    void (*weigh)(const float* lse, std::int64_t count, float weight, bool shifted, float* out);

    // For one block of dS of rows [row, row + rows) and columns [column, column + columns):
    // dx [rows, width] (+)= dS y and dy [n, width] (+)= dS^T x.
    void (*backward)(const Dense<T>& at, const Weights& weights, std::int64_t row,
                     std::int64_t rows, std::int64_t column, std::int64_t columns, float* dx,
                     bool add_dx, float* dy, bool add_dy, float* scratch);

    // out row = factor * (sum over parts of part row), parts `stride` floats apart, its first
    // `out_width` elements; the dot product of that sum with `with`, where that is not null.
    double (*finish)(const float* parts, std::int64_t count, std::int64_t stride,
                     std::int64_t out_width, float factor, const T* with, T* out);
};

}  // namespace fedsyn::info_nce

FEDSYN_KERNELS(info_nce::Kernels<float>, kInfoNceKernels)
FEDSYN_EXTENDED_KERNELS(info_nce::Kernels<Bfloat16>, kInfoNceBfloat16Kernels, avx512bf16)
