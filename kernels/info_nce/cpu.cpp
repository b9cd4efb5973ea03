#include <type_traits>

#include "kernels/common/gemm.h"
#include "kernels/info_nce/blocks.h"

namespace fedsyn::FEDSYN_ISA {
namespace {

using namespace info_nce;

constexpr int kVector = kLanes<float>;

// Stands for minus infinity as a running maximum.
constexpr float kNone = -1e30f;

constexpr float kLog2E = 1.44269504f;

// ---- Elements ----------------------------------------------------------------------------------

Floats widen(const float* from, int count) {
    return load(from, count);
}

Floats widen(const Bfloat16* from, int count) {
    Ints bits{};
    if (count == kVector) {
        using Shorts = std::uint16_t __attribute__((vector_size(kRegisterBytes / 2)));
        Shorts halves;
        __builtin_memcpy(&halves, from, sizeof halves);
        bits = __builtin_convertvector(halves, Ints);
    } else {
        for (int lane = 0; lane < count; ++lane) bits[lane] = from[lane].bits;
    }
    return __builtin_bit_cast(Floats, bits << 16);
}

// The bits of x rounded to the nearest bfloat16, ties to even, in the upper half, and zeros in the
// lower; NaN stays NaN.
Ints rounded(Floats x) {
#ifdef __AVX512BF16__
    using Shorts = std::uint16_t __attribute__((vector_size(kRegisterBytes / 2)));
    const auto halves = __builtin_bit_cast(Shorts, _mm512_cvtneps_pbh(x));
    return __builtin_convertvector(halves, Ints) << 16;
#else
    const Ints bits = __builtin_bit_cast(Ints, x);
    const Ints nearest = bits + 0x7fff + ((bits >> 16) & 1);
    return (x == x ? nearest : bits | 0x400000) & -65536;
#endif
}

void narrow(Floats x, float* to, int count) {
    store(to, x, count);
}

// The lower halves.
void store_lower(Bfloat16* to, Ints bits, int count) {
    if (count == kVector) {
        using Shorts = std::int16_t __attribute__((vector_size(kRegisterBytes / 2)));
        const Shorts halves = __builtin_convertvector(bits, Shorts);
        __builtin_memcpy(to, &halves, sizeof halves);
    } else {
        for (int lane = 0; lane < count; ++lane) {
            to[lane].bits = static_cast<std::uint16_t>(bits[lane]);
        }
    }
}

void narrow(Floats x, Bfloat16* to, int count) {
    store_lower(to, rounded(x) >> 16, count);
}

// Calls body(first, count) on vectors that cover [0, n).
template <class Body>
void vectors(std::int64_t n, Body body) {
    std::int64_t at = 0;
    for (; at + kVector <= n; at += kVector) body(at, kVector);
    if (at < n) body(at, static_cast<int>(n - at));
}

// ---- Layouts -----------------------------------------------------------------------------------

template <class T>
std::int64_t packed_elements(std::int64_t n, std::int64_t width) {
    return packed_size(n, width / kStep<T>);
}

template <class T>
void pack(const T* rows, std::int64_t width, std::int64_t first, std::int64_t last,
          Step<T>* packed) {
    const std::int64_t steps = width / kStep<T>;
    pack_rows(reinterpret_cast<const Step<T>*>(rows) + first * steps, steps, last - first, steps,
              packed + first * steps);
}

void interleave(const float*, std::int64_t, std::int64_t, std::int64_t, float*) {}

void interleave(const Bfloat16* rows, std::int64_t width, std::int64_t first, std::int64_t last,
                Pair* steps) {
    for (std::int64_t row = first; row < last; row += 2) {
        const Bfloat16* lower = rows + row * width;
        const Bfloat16* upper = lower + width;
        Pair* out = steps + row / 2 * width;
        const bool both = row + 1 < last;
        vectors(width, [&](std::int64_t j, int count) {
            const auto bits = [&](const Bfloat16* from) {
                return __builtin_bit_cast(Ints, widen(from + j, count));
            };
            const Ints low = bits(lower) >> 16 & 0xffff;
            const Ints pair = both ? low | bits(upper) : low;
            store(reinterpret_cast<float*>(out + j), __builtin_bit_cast(Floats, pair), count);
        });
    }
}

template <class T>
Floats dot(const T* a, const T* b, std::int64_t width) {
    Floats total{};
    vectors(width,
            [&](std::int64_t j, int count) { total += widen(a + j, count) * widen(b + j, count); });
    return total;
}

template <class T>
float largest_square(const T* rows, std::int64_t count, std::int64_t width) {
    float most = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        const float square = sum(dot(rows + i * width, rows + i * width, width));
        if (!(square <= most)) most = square;  // NaN is kept
        if (most != most) break;
    }
    return most;
}

// A block of x y^T.
template <class T>
void similarities(const Dense<T>& at, std::int64_t row, std::int64_t rows, std::int64_t column,
                  std::int64_t columns, float* block) {
    const std::int64_t steps = at.width / kStep<T>;
    const auto* x = reinterpret_cast<const Step<T>*>(at.x) + row * steps;
    gemm<false>(LeftOf<Step<T>>{x, steps, 1},
                RightOf<Step<T>>{at.packed + column * steps, kTileColumns, steps * kTileColumns},
                block, kBlockColumns, rows, columns, steps);
}

// ---- Forward -----------------------------------------------------------------------------------

// The running log-sum-exps of a group of rows, and of all columns over that group.
struct Running {
    float* row_max;
    float* row_sum;
    float* column_max;
    float* column_sum;
};

// Without maxima: one exponential an element.
void add_block(const float* block, std::int64_t rows, std::int64_t columns, float scale,
               const Running& to) {
    const float factor = kLog2E * scale;
    for (std::int64_t i = 0; i < rows; ++i) {
        const float* row = block + i * kBlockColumns;
        Floats total{};
        vectors(columns, [&](std::int64_t j, int count) {
            Floats e = exp2_bounded(factor * load(row + j, count));
            store(to.column_sum + j, load(to.column_sum + j, count) + e, count);
            if (count < kVector) {  // the lanes beyond are e^0
                for (int lane = count; lane < kVector; ++lane) e[lane] = 0;
            }
            total += e;
        });
        to.row_sum[i] += sum(total);
    }
}

// With running maxima, which the sums so far are rescaled to.
void add_block_shifted(const float* block, std::int64_t rows, std::int64_t columns, float scale,
                       const Running& to) {
    float before[kBlockColumns];
    vectors(columns, [&](std::int64_t j, int count) {
        const Floats old = load(to.column_max + j, count);
        Floats most = old;
        for (std::int64_t i = 0; i < rows; ++i) {
            most = at_least(most, scale * load(block + i * kBlockColumns + j, count));
        }
        store(before + j, old, count);
        store(to.column_max + j, most, count);
        store(to.column_sum + j, load(to.column_sum + j, count) * exp(old - most), count);
    });
    for (std::int64_t i = 0; i < rows; ++i) {
        const float* row = block + i * kBlockColumns;
        const auto scaled = [&](std::int64_t j, int count) {
            Floats s = scale * load(row + j, count);
            if (count < kVector) {
                for (int lane = count; lane < kVector; ++lane) s[lane] = kNone;
            }
            return s;
        };
        Floats most = broadcast(to.row_max[i]);
        vectors(columns,
                [&](std::int64_t j, int count) { most = at_least(most, scaled(j, count)); });
        const float maximum = largest(most);
        Floats total{};
        vectors(columns, [&](std::int64_t j, int count) {
            const Floats s = scaled(j, count);
            total += exp(s - maximum);
            const Floats e = exp(s - load(to.column_max + j, count));
            store(to.column_sum + j, load(to.column_sum + j, count) + e, count);
        });
        to.row_sum[i] = to.row_sum[i] * exp(broadcast(to.row_max[i] - maximum))[0] + sum(total);
        to.row_max[i] = maximum;
    }
}

template <class T>
void forward(const Dense<T>& at, std::int64_t first, std::int64_t last, float* rows,
             float* column_max, float* column_sum, float* scratch) {
    const float start = at.shifted ? kNone : 0.0f;
    for (std::int64_t j = 0; j < at.n; ++j) {
        column_max[j] = start;
        column_sum[j] = 0;
    }
    float row_max[kBlockRows], row_sum[kBlockRows];
    for (std::int64_t row = first; row < last; row += kBlockRows) {
        const std::int64_t height = last - row < kBlockRows ? last - row : kBlockRows;
        for (std::int64_t i = 0; i < height; ++i) {
            row_max[i] = start;
            row_sum[i] = 0;
        }
        for (std::int64_t column = 0; column < at.n; column += kBlockColumns) {
            const std::int64_t left = at.n - column;
            const std::int64_t columns = left < kBlockColumns ? left : kBlockColumns;
            similarities(at, row, height, column, columns, scratch);
            const Running to{row_max, row_sum, column_max + column, column_sum + column};
            (at.shifted ? add_block_shifted : add_block)(scratch, height, columns, at.scale, to);
        }
        vectors(height, [&](std::int64_t i, int count) {
            store(rows + row + i, load(row_max + i, count) + log(load(row_sum + i, count)), count);
        });
    }
}

void merge(const float* column_max, const float* column_sum, std::int64_t groups, std::int64_t n,
           std::int64_t first, std::int64_t last, float* columns) {
    vectors(last - first, [&](std::int64_t j, int count) {
        const auto part = [&](const float* of, std::int64_t group) {
            return load(of + group * n + first + j, count);
        };
        Floats most = part(column_max, 0);
        for (std::int64_t group = 1; group < groups; ++group) {
            most = at_least(most, part(column_max, group));
        }
        Floats total{};
        for (std::int64_t group = 0; group < groups; ++group) {
            total += part(column_sum, group) * exp(part(column_max, group) - most);
        }
        store(columns + first + j, most + log(total), count);
    });
}

template <class T>
double positives(const Dense<T>& at, std::int64_t first, std::int64_t last) {
    double total = 0;
    for (std::int64_t i = first; i < last; ++i) {
        total += sum(dot(at.x + i * at.width, at.y + (i + at.offset) * at.width, at.width));
    }
    return total * at.scale;
}

// ---- Backward ----------------------------------------------------------------------------------

void weigh(const float* lse, std::int64_t count, float weight, bool shifted, float* out) {
    vectors(count, [&](std::int64_t i, int lanes) {
        const Floats value = load(lse + i, lanes);
        store(out + i, shifted ? value : weight * exp(-value), lanes);
    });
}

// dS of one row of a block, vector by vector.
template <bool kShifted>
struct Derivative {
    Derivative(float factor, const Weights& weights, std::int64_t row, std::int64_t column,
               std::int64_t offset)
        : own(weights.rows[row]),
          others(weights.columns + column),
          scale(kShifted ? factor : kLog2E * factor),
          weight(weights.weight),
          partner(static_cast<int>(row + offset - column)) {}

    Floats operator()(const float* s, std::int64_t j, int count) const {
        const Floats scaled = scale * load(s + j, count);
        const Floats other = load(others + j, count);
        Floats value;
        if constexpr (kShifted) {
            value = weight * (exp(scaled - own) + exp(scaled - other));
        } else {
            value = exp2_bounded(scaled) * (own + other);
        }
        return lane_numbers() == partner - static_cast<int>(j) ? value - 2 * weight : value;
    }

    float own;
    const float* others;
    float scale;
    float weight;
    int partner;  // the column of S_ii in the block
};

// Computes a block of dS into scratch memory.
template <bool kShifted>
void derivatives(const Dense<float>& at, const Weights& weights, std::int64_t row,
                 std::int64_t rows, std::int64_t column, std::int64_t columns, float* block) {
    similarities(at, row, rows, column, columns, block);
    for (std::int64_t i = 0; i < rows; ++i) {
        const Derivative<kShifted> of(at.scale, weights, row + i, column, at.offset);
        float* s = block + i * kBlockColumns;
        vectors(columns, [&](std::int64_t j, int count) { store(s + j, of(s, j, count), count); });
    }
}

// In bfloat16 dS is kept twice: neighbours in a row side by side, for dx, and neighbours in a
// column, for dy. Similarities, in floats, are there for a strip of rows at a time.
constexpr std::int64_t kStrip = 2 * 12;  // even, and whole tiles of every instruction set

template <class T>
auto along_rows(T* scratch) {
    using To = std::conditional_t<std::is_const_v<T>, const Bfloat16, Bfloat16>;
    return reinterpret_cast<To*>(scratch + kStrip * kBlockColumns);
}

template <class T>
auto along_columns(T* scratch) {
    using To = std::conditional_t<std::is_const_v<T>, const Pair, Pair>;
    return reinterpret_cast<To*>(along_rows(scratch) + kBlockRows * kBlockColumns);
}

template <bool kShifted>
void derivatives(const Dense<Bfloat16>& at, const Weights& weights, std::int64_t row,
                 std::int64_t rows, std::int64_t column, std::int64_t columns, float* scratch) {
    for (std::int64_t i = 0; i < rows; i += 2) {
        const std::int64_t left = rows - i;
        if (i % kStrip == 0) {
            const std::int64_t height = left < kStrip ? left : kStrip;
            similarities(at, row + i, height, column, columns, scratch);
        }
        const bool both = left > 1;
        const Derivative<kShifted> lower(at.scale, weights, row + i, column, at.offset);
        const Derivative<kShifted> upper(at.scale, weights, row + i + both, column, at.offset);
        const float* const s = scratch + i % kStrip * kBlockColumns;
        Bfloat16* const along = along_rows(scratch) + i * kBlockColumns;
        Pair* const down = along_columns(scratch) + i / 2 * kBlockColumns;
        vectors(columns, [&](std::int64_t j, int count) {
            const Ints low = rounded(lower(s, j, count)) >> 16 & 0xffff;
            Ints high{};
            if (both) {
                high = rounded(upper(s + kBlockColumns, j, count));
                store_lower(along + kBlockColumns + j, high >> 16, count);
            }
            store_lower(along + j, low, count);
            store(reinterpret_cast<float*>(down + j), __builtin_bit_cast(Floats, low | high),
                  count);
        });
        if (columns % 2) along[columns] = along[kBlockColumns + columns] = {0};  // half a pair
    }
}

template <class T>
void accumulate(bool add, LeftOf<T> a, RightOf<T> b, float* c, std::int64_t m, std::int64_t n,
                std::int64_t k) {
    if (add) {
        gemm<true>(a, b, c, n, m, n, k);
    } else {
        gemm<false>(a, b, c, n, m, n, k);
    }
}

// dx and dy from a block of dS.
void products(const Dense<float>& at, std::int64_t row, std::int64_t rows, std::int64_t column,
              std::int64_t columns, const float* block, float* dx, bool add_dx, float* dy,
              bool add_dy) {
    const std::int64_t width = at.width;
    accumulate(add_dx, Left{block, kBlockColumns, 1}, Right{at.y + column * width, width}, dx, rows,
               width, columns);
    accumulate(add_dy, Left{block, 1, kBlockColumns}, Right{at.x + row * width, width},
               dy + column * width, columns, width, rows);
}

void products(const Dense<Bfloat16>& at, std::int64_t row, std::int64_t rows, std::int64_t column,
              std::int64_t columns, float* block, float* dx, bool add_dx, float* dy, bool add_dy) {
    const std::int64_t width = at.width;
    const auto* along = reinterpret_cast<const Pair*>(along_rows(block));
    accumulate(add_dx, PairLeft{along, kBlockColumns / 2, 1},
               PairRight{at.y_steps + column / 2 * width, width}, dx, rows, width,
               (columns + 1) / 2);
    accumulate(add_dy, PairLeft{along_columns(block), 1, kBlockColumns},
               PairRight{at.x_steps + row / 2 * width, width}, dy + column * width, columns, width,
               (rows + 1) / 2);
}

template <class T>
void backward(const Dense<T>& at, const Weights& weights, std::int64_t row, std::int64_t rows,
              std::int64_t column, std::int64_t columns, float* dx, bool add_dx, float* dy,
              bool add_dy, float* scratch) {
    if (at.shifted) {
        derivatives<true>(at, weights, row, rows, column, columns, scratch);
    } else {
        derivatives<false>(at, weights, row, rows, column, columns, scratch);
    }
    products(at, row, rows, column, columns, scratch, dx, add_dx, dy, add_dy);
}

template <class T>
double finish(const float* parts, std::int64_t count, std::int64_t stride, std::int64_t out_width,
              float factor, const T* with, T* out) {
    Floats product{};
    vectors(out_width, [&](std::int64_t j, int lanes) {
        Floats total = load(parts + j, lanes);
        for (std::int64_t part = 1; part < count; ++part) {
            total += load(parts + part * stride + j, lanes);
        }
        if (with) product += total * widen(with + j, lanes);
        narrow(factor * total, out + j, lanes);
    });
    return sum(product);
}

template <class T>
constexpr Kernels<T> kKernels{
    (kStrip + kBlockRows) * kBlockColumns,
    packed_elements<T>,
    pack<T>,
    interleave,
    largest_square<T>,
    forward<T>,
    merge,
    positives<T>,
    weigh,
    backward<T>,
    finish<T>,
};

}  // namespace

extern constexpr Kernels<float> kInfoNceKernels = kKernels<float>;
extern constexpr Kernels<Bfloat16> kInfoNceBfloat16Kernels = kKernels<Bfloat16>;

}  // namespace fedsyn::FEDSYN_ISA
