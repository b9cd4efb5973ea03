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
// What is to become of the sums (a bias, an activation) is done before they leave the registers.
#pragma once

#include <cstdint>
#include <type_traits>

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

// What becomes of the sums of row i in columns j to j + lanes: nothing.
struct Keep {
    Floats operator()(Floats sums, std::int64_t, std::int64_t, int) const { return sums; }
};

// Nothing either, but their place in memory is far, and fetched while they are added up.
struct KeepFar : Keep {};

// Nothing either, but the memory that many bytes ahead of b, which is needed next, is fetched. Any
// other finish may have such a member too.
struct KeepAhead : Keep {
    std::intptr_t ahead;
};

// How many elements pack_rows writes.
inline std::int64_t packed_size(std::int64_t rows, std::int64_t width) {
    return (rows + kTileColumns - 1) / kTileColumns * kTileColumns * width;
}

// Lays rows out so that their transpose is a Right: panels of kTileColumns rows, in each
// [width, kTileColumns]; the last panel is filled up with zeros.
template <class T>
inline RightOf<T> pack_rows(const T* rows, std::int64_t row_stride, std::int64_t count,
                            std::int64_t width, T* packed) {
    static_assert(sizeof(T) == sizeof(float));  // a Pair moves like one
    constexpr int kVector = kLanes<float>;
    const auto* from = reinterpret_cast<const float*>(rows);
    auto* const to = reinterpret_cast<float*>(packed);
    for (std::int64_t first = 0; first < count; first += kVector) {
        const std::int64_t panel = first / kTileColumns * kTileColumns;
        float* const square_to = to + panel * width + (first - panel);
        const std::int64_t left = count - first;
        for (std::int64_t k = 0; k < width; k += kVector) {
            const std::int64_t steps = width - k < kVector ? width - k : kVector;
            Floats square[kVector];
#pragma GCC unroll 16
            for (int j = 0; j < kVector; ++j) {
                square[j] = j < left
                                ? load(from + (first + j) * row_stride + k, static_cast<int>(steps))
                                : Floats{};
            }
            transpose(square);
#pragma GCC unroll 16
            for (int j = 0; j < kVector; ++j) {
                if (j < steps) store(square_to + (k + j) * kTileColumns, square[j]);
            }
        }
    }
    if (const std::int64_t over = count % kTileColumns; over > 0 && over <= kVector) {
        float* const empty = to + (count - over) * width + kVector;  // the last panel's second half
        for (std::int64_t k = 0; k < width; ++k) store(empty + k * kTileColumns, Floats{});
    }
    return {packed, kTileColumns, width * kTileColumns};
}

// One tile of kRows rows and `columns` columns, more than one vector of them if kWide; it begins at
// row `row` and column `column`.
template <int kRows, bool kWide, bool kWhole, bool kAdd, class T, class Finish>
inline void gemm_tile(LeftOf<T> a, const T* b, std::int64_t b_step, float* c, std::int64_t c_row,
                      std::int64_t steps, int columns, std::int64_t row, std::int64_t column,
                      const Finish& finish) {
    constexpr int kVector = kLanes<float>;
    const int first = kWide || kWhole ? kVector : columns;
    const int second = kWhole ? kVector : columns - kVector;
    Floats sums[kRows][kWide ? 2 : 1];
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
        sums[i][0] = kAdd ? load(c + i * c_row, first) : Floats{};
        if constexpr (kWide) sums[i][1] = kAdd ? load(c + i * c_row + kVector, second) : Floats{};
    }
    if constexpr (!kAdd && std::is_same_v<Finish, KeepFar>) {
#pragma GCC unroll 16
        for (int i = 0; i < kRows; ++i) {
            __builtin_prefetch(c + i * c_row, 1);
            if constexpr (kWide) __builtin_prefetch(c + i * c_row + kVector, 1);
        }
    }
    [[maybe_unused]] std::intptr_t ahead = 0;
    if constexpr (requires { finish.ahead; }) {  // half by the first rows, half by the second
        constexpr int kHalf = kTileColumns * sizeof(T) / 2;
        if (row < 2 * kTileRows) ahead = finish.ahead + (row < kTileRows ? 0 : kHalf);
    }
    const T* left = a.at;
    for (std::int64_t k = 0; k < steps; ++k) {
        if constexpr (requires { finish.ahead; }) {
            __builtin_prefetch(reinterpret_cast<const char*>(b) + ahead);
        }
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
        store(c + i * c_row, finish(sums[i][0], row + i, column, first), first);
        if constexpr (kWide) {
            store(c + i * c_row + kVector, finish(sums[i][1], row + i, column + kVector, second),
                  second);
        }
    }
}

// All rows of the panel of columns that begins at `column`.
template <bool kWide, bool kWhole, bool kAdd, class T, class Finish>
inline void gemm_panel(LeftOf<T> a, const T* b, std::int64_t b_step, float* c, std::int64_t c_row,
                       std::int64_t m, std::int64_t steps, int columns, std::int64_t column,
                       const Finish& finish) {
    std::int64_t i = 0;
    const auto run = [&]<int kRows>() {
        for (; i + kRows <= m; i += kRows) {
            const LeftOf<T> rows{a.at + i * a.row, a.row, a.step};
            gemm_tile<kRows, kWide, kWhole, kAdd>(rows, b, b_step, c + i * c_row, c_row, steps,
                                                  columns, i, column, finish);
        }
    };
    // Fewer rows than four take as long as four: their sums wait for each other.
    run.template operator()<kTileRows>();
    if constexpr (kTileRows > 8) run.template operator()<8>();
    run.template operator()<4>();
    run.template operator()<3>();
    run.template operator()<2>();
    run.template operator()<1>();
}

template <bool kAdd, class T, class Finish>
inline void gemm_steps(LeftOf<T> a, RightOf<T> b, float* c, std::int64_t c_row, std::int64_t m,
                       std::int64_t n, std::int64_t steps, const Finish& finish) {
    for (std::int64_t j = 0; j < n; j += kTileColumns) {
        const T* panel = b.at + j / kTileColumns * b.panel;
        const std::int64_t left = n - j;
        const int columns = static_cast<int>(left < kTileColumns ? left : kTileColumns);
        if (columns == kTileColumns) {
            gemm_panel<true, true, kAdd>(a, panel, b.step, c + j, c_row, m, steps, columns, j,
                                         finish);
        } else if (columns > kLanes<float>) {
            gemm_panel<true, false, kAdd>(a, panel, b.step, c + j, c_row, m, steps, columns, j,
                                          finish);
        } else {
            gemm_panel<false, false, kAdd>(a, panel, b.step, c + j, c_row, m, steps, columns, j,
                                           finish);
        }
    }
}

template <bool kAdd, class T, class Finish>
inline void gemm_all(LeftOf<T> a, RightOf<T> b, float* c, std::int64_t c_row, std::int64_t m,
                     std::int64_t n, std::int64_t k, const Finish& finish) {
    if (!kAdd && k == 0) {
        for (std::int64_t i = 0; i < m; ++i) {
            for (std::int64_t j = 0; j < n; ++j) c[i * c_row + j] = 0;
        }
    }
    for (std::int64_t done = 0; done < k; done += kStepBlock) {
        const std::int64_t steps = k - done < kStepBlock ? k - done : kStepBlock;
        const LeftOf<T> part_a{a.at + done * a.step, a.row, a.step};
        const RightOf<T> part_b{b.at + done * b.step, b.step, b.panel};
        const auto run = [&](const auto& last) {
            if (!kAdd && done == 0) {
                gemm_steps<false>(part_a, part_b, c, c_row, m, n, steps, last);
            } else {
                gemm_steps<true>(part_a, part_b, c, c_row, m, n, steps, last);
            }
        };
        if (done + steps == k) {
            run(finish);
        } else if constexpr (requires { finish.ahead; }) {
            run(KeepAhead{{}, finish.ahead});
        } else {
            run(Keep{});
        }
    }
}

// c = a b, or c += a b if kAdd, finished if k > 0; c's rows lie c_row floats apart.
template <bool kAdd, class Finish = Keep>
inline void gemm(Left a, Right b, float* c, std::int64_t c_row, std::int64_t m, std::int64_t n,
                 std::int64_t k, const Finish& finish = {}) {
    gemm_all<kAdd>(a, b, c, c_row, m, n, k, finish);
}

template <bool kAdd>
inline void gemm(PairLeft a, PairRight b, float* c, std::int64_t c_row, std::int64_t m,
                 std::int64_t n, std::int64_t k) {
    gemm_all<kAdd>(a, b, c, c_row, m, n, k, Keep{});
}

}  // namespace fedsyn::FEDSYN_ISA
