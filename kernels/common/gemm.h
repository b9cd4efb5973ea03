// Matrix products of blocks that lie in the cache, by tiles that fill the registers.
//
//   c (+)= a b,    a: [m, k],  b: [k, n],  c: [m, n]
//
// A tile is kTileRows rows by two vectors of columns: its sums stay in registers while k runs, an
// element of a is broadcast and two vectors of b are loaded for every step. So a may lie in memory
// in any way, transposed too, and b needs its columns side by side. The product of rows with rows,
// x y^T, first lays y out in panels (pack_rows).
//
// Elements are floats, or pairs of bfloat16 neighbours in k: then k counts pairs, one instruction
// multiplies and adds a vector of pairs where the processor has it, and sums are floats all the
// same.
//
// Results do not depend on how m and n are cut into blocks: every element is a sum over k in order.
#pragma once

#include <cstdint>

#include "kernels/common/simd.h"

namespace fedsyn::FEDSYN_ISA {

#if defined(__AVX512F__)
inline constexpr int kTileRows = 12;  // 24 sums of 32 registers
#else
inline constexpr int kTileRows = 6;  // 12 sums of 16 registers
#endif
inline constexpr int kTileColumns = 2 * kLanes<float>;
inline constexpr std::int64_t kStepBlock = 256;  // steps whose vectors of b fit the first cache

// Element (i, k) is at[i * row + k * step].
template <class T>
struct LeftOf {
    const T* at;
    std::int64_t row;
    std::int64_t step;
};
using Left = LeftOf<float>;
using PairLeft = LeftOf<Pair>;

// Element (k, j) is at[j / kTileColumns * panel + k * step + j % kTileColumns].
template <class T>
struct RightOf {
    const T* at;
    std::int64_t step;
    std::int64_t panel = kTileColumns;  // as in a plain row-major matrix
};
using Right = RightOf<float>;
using PairRight = RightOf<Pair>;

// How many elements pack_rows writes.
inline std::int64_t packed_size(std::int64_t rows, std::int64_t width) {
    return (rows + kTileColumns - 1) / kTileColumns * kTileColumns * width;
}

// Lays rows out so that their transpose is a Right: panels of kTileColumns rows, in each
// [width, kTileColumns]; the last panel is filled up with zeros.
template <class T>
inline RightOf<T> pack_rows(const T* rows, std::int64_t row_stride, std::int64_t count,
                            std::int64_t width, T* packed) {
    constexpr std::int64_t kBlock = 16;  // of width: the rows' cache lines are used up at once
    for (std::int64_t first = 0; first < count; first += kTileColumns) {
        T* panel = packed + first * width;
        const std::int64_t left = count - first;
        const std::int64_t present = left < kTileColumns ? left : kTileColumns;
        for (std::int64_t block = 0; block < width; block += kBlock) {
            const std::int64_t end = block + kBlock < width ? block + kBlock : width;
            for (std::int64_t j = 0; j < kTileColumns; ++j) {
                const T* row = rows + (first + j) * row_stride;
                for (std::int64_t k = block; k < end; ++k) {
                    panel[k * kTileColumns + j] = j < present ? row[k] : T{};
                }
            }
        }
    }
    return {packed, kTileColumns, width * kTileColumns};
}

// One tile of kRows rows and `columns` columns, more than one vector of them if kWide.
template <int kRows, bool kWide, bool kWhole, bool kAdd, class T>
inline void gemm_tile(LeftOf<T> a, const T* b, std::int64_t b_step, float* c, std::int64_t c_row,
                      std::int64_t steps, int columns) {
    constexpr int kVector = kLanes<float>;
    const int first = kWide || kWhole ? kVector : columns;
    const int second = kWhole ? kVector : columns - kVector;
    Floats sums[kRows][kWide ? 2 : 1];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
        sums[i][0] = kAdd ? load(c + i * c_row, first) : Floats{};
        if constexpr (kWide) sums[i][1] = kAdd ? load(c + i * c_row + kVector, second) : Floats{};
    }
    const T* left = a.at;
    for (std::int64_t k = 0; k < steps; ++k) {
        Vector<T> right[kWide ? 2 : 1];
        right[0] = load(b, first);
        if constexpr (kWide) right[1] = load(b + kVector, second);
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
            const Vector<T> value = broadcast(left[i * a.row]);
            sums[i][0] = multiply_add(value, right[0], sums[i][0]);
            if constexpr (kWide) sums[i][1] = multiply_add(value, right[1], sums[i][1]);
        }
        left += a.step;
        b += b_step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
        store(c + i * c_row, sums[i][0], first);
        if constexpr (kWide) store(c + i * c_row + kVector, sums[i][1], second);
    }
}

// All rows of one panel of columns.
template <bool kWide, bool kWhole, bool kAdd, class T>
inline void gemm_panel(LeftOf<T> a, const T* b, std::int64_t b_step, float* c, std::int64_t c_row,
                       std::int64_t m, std::int64_t steps, int columns) {
    std::int64_t i = 0;
    const auto run = [&]<int kRows>() {
        for (; i + kRows <= m; i += kRows) {
            const LeftOf<T> rows{a.at + i * a.row, a.row, a.step};
            gemm_tile<kRows, kWide, kWhole, kAdd>(rows, b, b_step, c + i * c_row, c_row, steps,
                                                  columns);
        }
    };
    run.template operator()<kTileRows>();
    if constexpr (kTileRows > 6) run.template operator()<6>();
    run.template operator()<3>();
    run.template operator()<1>();
}

template <bool kAdd, class T>
inline void gemm_steps(LeftOf<T> a, RightOf<T> b, float* c, std::int64_t c_row, std::int64_t m,
                       std::int64_t n, std::int64_t steps) {
    for (std::int64_t j = 0; j < n; j += kTileColumns) {
        const T* panel = b.at + j / kTileColumns * b.panel;
        const std::int64_t left = n - j;
        const int columns = static_cast<int>(left < kTileColumns ? left : kTileColumns);
        if (columns == kTileColumns) {
            gemm_panel<true, true, kAdd>(a, panel, b.step, c + j, c_row, m, steps, columns);
        } else if (columns > kLanes<float>) {
            gemm_panel<true, false, kAdd>(a, panel, b.step, c + j, c_row, m, steps, columns);
        } else {
            gemm_panel<false, false, kAdd>(a, panel, b.step, c + j, c_row, m, steps, columns);
        }
    }
}

template <bool kAdd, class T>
inline void gemm_all(LeftOf<T> a, RightOf<T> b, float* c, std::int64_t c_row, std::int64_t m,
                     std::int64_t n, std::int64_t k) {
    if (!kAdd && k == 0) {
        for (std::int64_t i = 0; i < m; ++i) {
            for (std::int64_t j = 0; j < n; ++j) c[i * c_row + j] = 0;
        }
    }
    for (std::int64_t done = 0; done < k; done += kStepBlock) {
        const std::int64_t steps = k - done < kStepBlock ? k - done : kStepBlock;
        const LeftOf<T> part_a{a.at + done * a.step, a.row, a.step};
        const RightOf<T> part_b{b.at + done * b.step, b.step, b.panel};
        if (!kAdd && done == 0) {
            gemm_steps<false>(part_a, part_b, c, c_row, m, n, steps);
        } else {
            gemm_steps<true>(part_a, part_b, c, c_row, m, n, steps);
        }
    }
}

// c = a b, or c += a b if kAdd; c's rows lie c_row floats apart.
template <bool kAdd>
inline void gemm(Left a, Right b, float* c, std::int64_t c_row, std::int64_t m, std::int64_t n,
                 std::int64_t k) {
    gemm_all<kAdd>(a, b, c, c_row, m, n, k);
}

template <bool kAdd>
inline void gemm(PairLeft a, PairRight b, float* c, std::int64_t c_row, std::int64_t m,
                 std::int64_t n, std::int64_t k) {
    gemm_all<kAdd>(a, b, c, c_row, m, n, k);
}

}  // namespace fedsyn::FEDSYN_ISA
