// Compiled once per instruction set: see kernels/common/simd.h.
#include "kernels/kmeans/cpu.h"

#include <cstdint>

#include "kernels/common/gemm.h"
#include "kernels/common/simd.h"

namespace fedsyn::FEDSYN_ISA {
namespace {

using kmeans::Kernels;
using kmeans::kPanel;
using kmeans::Points;
using kmeans::Rows;

constexpr int kVectors = kPanel / kLanes<float>;  // of one panel

std::int64_t padded_rows(const Points& points) {
    return (points.rows + kPanel - 1) / kPanel * kPanel;
}

const float* panel_of(const Points& points, std::int64_t at) {
    return points.panels + at * kPanel * points.width;
}

using Quad = float __attribute__((vector_size(16)));
constexpr std::int64_t kQuad = 4;

template <class T>
T seen(T x, float factor, T origin) {
    return x * factor - origin;
}

void see(const Rows& rows, const float* origin, std::int64_t row, std::int64_t width,
         float* point) {
    const float* x = rows.x + rows.index[row] * width;
    const float factor = static_cast<float>(rows.factor[row]);
    for (std::int64_t k = 0; k < width; ++k) point[k] = seen(x[k], factor, origin[k]);
}

// Four rows times their factors less `origin`, as four columns of a panel. Rows that are null give
// zeros.
void pack_quad(const float* const (&rows)[kQuad], const float (&factors)[kQuad],
               const float* origin, std::int64_t width, float* columns) {
    const std::int64_t whole = width - width % kQuad;
    for (std::int64_t k = 0; k < whole; k += kQuad) {
        Quad x[kQuad], shift;
        __builtin_memcpy(&shift, origin + k, sizeof shift);
        for (std::int64_t j = 0; j < kQuad; ++j) {
            if (rows[j] == nullptr) {
                x[j] = Quad{};
            } else {
                __builtin_memcpy(&x[j], rows[j] + k, sizeof shift);
                x[j] = seen(x[j], factors[j], shift);
            }
        }
        const auto low01 = __builtin_shufflevector(x[0], x[1], 0, 4, 1, 5);
        const auto low23 = __builtin_shufflevector(x[2], x[3], 0, 4, 1, 5);
        const auto high01 = __builtin_shufflevector(x[0], x[1], 2, 6, 3, 7);
        const auto high23 = __builtin_shufflevector(x[2], x[3], 2, 6, 3, 7);
        const Quad turned[kQuad] = {__builtin_shufflevector(low01, low23, 0, 1, 4, 5),
                                    __builtin_shufflevector(low01, low23, 2, 3, 6, 7),
                                    __builtin_shufflevector(high01, high23, 0, 1, 4, 5),
                                    __builtin_shufflevector(high01, high23, 2, 3, 6, 7)};
        for (std::int64_t j = 0; j < kQuad; ++j) {
            __builtin_memcpy(columns + (k + j) * kPanel, &turned[j], sizeof shift);
        }
    }
    for (std::int64_t k = whole; k < width; ++k) {
        for (std::int64_t j = 0; j < kQuad; ++j) {
            const float x = rows[j] == nullptr ? 0 : seen(rows[j][k], factors[j], origin[k]);
            columns[k * kPanel + j] = x;
        }
    }
}

void pack(const Rows& rows, const float* origin, std::int64_t begin, std::int64_t end,
          const Points& to) {
    for (std::int64_t first = begin * kPanel; first < end * kPanel; first += kQuad) {
        const float* some[kQuad];
        float factors[kQuad];
        for (std::int64_t j = 0; j < kQuad; ++j) {
            const bool exists = first + j < to.rows;
            some[j] = exists ? rows.x + rows.index[first + j] * to.width : nullptr;
            factors[j] = exists ? static_cast<float>(rows.factor[first + j]) : 0;
        }
        float* panel = to.panels + first / kPanel * kPanel * to.width;
        pack_quad(some, factors, origin, to.width, panel + first % kPanel);
    }
}

// Of one panel, in float64 and by eight sums side by side.
double weighted_sum(const double* mass, const float* values) {
    constexpr int kSums = 8;
    double sums[kSums] = {};
    for (int i = 0; i < kPanel; i += kSums) {
        for (int j = 0; j < kSums; ++j) sums[j] += mass[i + j] * values[i + j];
    }
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) +
           ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

constexpr int kHalf = kLanes<float> == 16 ? 2 : 1;  // vectors, whose sums stay in registers

template <int kTrials>
void approach_some(const Points& points, const float* seeds, const float* gap, const double* mass,
                   float* left, double* shares, std::int64_t begin, std::int64_t end) {
    const std::int64_t stride = padded_rows(points);
    for (std::int64_t at = begin; at < end; ++at) {
        for (int first = 0; first < kVectors; first += kHalf) {
            const float* x = panel_of(points, at) + first * kLanes<float>;
            Floats sums[kTrials][kHalf] = {};
            for (std::int64_t k = 0; k < points.width; ++k, x += kPanel) {
#pragma GCC unroll 8
                for (int t = 0; t < kTrials; ++t) {
                    const Floats seed = broadcast(seeds[t * points.width + k]);
#pragma GCC unroll 2
                    for (int v = 0; v < kHalf; ++v) {
                        const Floats difference = load(x + v * kLanes<float>) - seed;
                        sums[t][v] += difference * difference;
                    }
                }
            }
            for (int v = 0; v < kHalf; ++v) {
                const std::int64_t row = at * kPanel + (first + v) * kLanes<float>;
                const Floats so_far = load(gap + row);
                for (int t = 0; t < kTrials; ++t) {
                    const Floats sum = sums[t][v];
                    store(left + t * stride + row, sum < so_far ? sum : so_far);
                }
            }
        }
        for (int t = 0; t < kTrials; ++t) {
            shares[t * (stride / kPanel) + at] =
                weighted_sum(mass + at * kPanel, left + t * stride + at * kPanel);
        }
    }
}

void approach(const Points& points, const float* seeds, std::int64_t trials, const float* gap,
              const double* mass, float* left, double* shares, std::int64_t begin,
              std::int64_t end) {
    const std::int64_t stride = padded_rows(points);
    std::int64_t t = 0;
    const auto run = [&]<int kTrials>() {
        for (; t + kTrials <= trials; t += kTrials) {
            approach_some<kTrials>(points, seeds + t * points.width, gap, mass, left + t * stride,
                                   shares + t * (stride / kPanel), begin, end);
        }
    };
    run.template operator()<8>();
    run.template operator()<7>();
    run.template operator()<6>();
    run.template operator()<5>();
    run.template operator()<4>();
    run.template operator()<3>();
    run.template operator()<2>();
    run.template operator()<1>();
}

bool assign(const Points& points, const float* centroids, const float* half_norms,
            std::int64_t count, float* scratch, std::int32_t* assignment, std::int64_t begin,
            std::int64_t end) {
    constexpr int lanes = kLanes<float>;
    bool changed = false;
    for (std::int64_t at = begin; at < end; ++at) {
        gemm<false>(Left{centroids, points.width, 1},
                    Right{panel_of(points, at), kPanel, kTileColumns}, scratch, kPanel, count,
                    kPanel, points.width);
        Floats least[kVectors];
        Ints nearest[kVectors] = {};
        for (Floats& vector : least) vector = broadcast(__builtin_inff());
        for (std::int64_t k = 0; k < count; ++k) {
            const Floats half = broadcast(half_norms[k]);
            const Ints number = Ints{} + static_cast<int>(k);
            for (int v = 0; v < kVectors; ++v) {
                const Floats score = half - load(scratch + k * kPanel + v * lanes);
                const Ints closer = score < least[v];
                least[v] = closer ? score : least[v];
                nearest[v] = closer ? number : nearest[v];
            }
        }
        std::int32_t found[kPanel];
        __builtin_memcpy(found, nearest, sizeof found);
        const std::int64_t first = at * kPanel;
        const std::int64_t rows = points.rows - first < kPanel ? points.rows - first : kPanel;
        for (std::int64_t j = 0; j < rows; ++j) {
            changed |= assignment[first + j] != found[j];
            assignment[first + j] = found[j];
        }
    }
    return changed;
}

using Doubles = double __attribute__((vector_size(kRegisterBytes)));
using Half = float __attribute__((vector_size(kRegisterBytes / 2)));  // as many floats
constexpr std::int64_t kDoubles = kRegisterBytes / sizeof(double);

// The sums of kCount vectors of columns stay in registers.
template <int kCount>
void sum_columns(const Rows& rows, const std::int32_t* members, std::int64_t count,
                 std::int64_t width, std::int64_t first, double* sum) {
    Doubles sums[kCount] = {};
    for (std::int64_t i = 0; i < count; ++i) {
        const float* x = rows.x + rows.index[members[i]] * width + first;
        const double factor = rows.factor[members[i]];
#pragma GCC unroll 8
        for (int v = 0; v < kCount; ++v) {
            Half values;
            __builtin_memcpy(&values, x + v * kDoubles, sizeof values);
            sums[v] += factor * __builtin_convertvector(values, Doubles);
        }
    }
    __builtin_memcpy(sum + first, sums, sizeof sums);
}

void sum(const Rows& rows, const std::int32_t* members, std::int64_t count, std::int64_t width,
         double* sum) {
    std::int64_t k = 0;
    for (; k + 8 * kDoubles <= width; k += 8 * kDoubles) {
        sum_columns<8>(rows, members, count, width, k, sum);
    }
    for (; k + kDoubles <= width; k += kDoubles) {
        sum_columns<1>(rows, members, count, width, k, sum);
    }
    for (; k < width; ++k) {
        sum[k] = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            sum[k] += rows.factor[members[i]] * rows.x[rows.index[members[i]] * width + k];
        }
    }
}

}  // namespace

extern constexpr kmeans::Kernels kKmeansKernels{&pack, &see, &approach, &assign, &sum};

}  // namespace fedsyn::FEDSYN_ISA
