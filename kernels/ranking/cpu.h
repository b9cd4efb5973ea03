// How queries rank the items of a gallery, on the CPU, exactly and without a matrix of scores.
//
// fedsyn/ops/ranking.py says what is computed. A query's score of an item is the inner product of
// their rows, or minus the Hamming distance of their packed bits; a score that is not finite counts
// as minus infinity. Scores are computed strip by strip and looked at while they are in the cache.
// They, and so all results, depend neither on how strips are cut nor on the number of threads.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"

namespace fedsyn::ranking {

struct Operands {
    const void* query;    // [queries, width] floats, or 32-bit words of codes
    const void* gallery;  // [items, width]
    std::int64_t queries, items, width;
    bool codes;
};

struct Labels {
    const std::int32_t* query;    // [queries, words]
    const std::int32_t* gallery;  // [words, items]
    std::int64_t words;
    bool sets;  // relevant are items that have a bit in common with the query, else equal ones
};

// score, index [queries, k]: the greatest scores, falling, and their items; of equals the first.
void top_k(const Operands& operands, std::int64_t k, float* score, std::int64_t* index, int threads,
           Isa isa);

// rank [queries], from 1, of item partner [queries] of each: behind all items that score the same,
// or behind those before it.
void partner_rank(const Operands& operands, const std::int64_t* partner, bool tied_behind,
                  std::int64_t* rank, int threads, Isa isa);

// precision [queries, 3]: average precision over all ranks; over the first `top` ranks divided by
// the relevant items among them; and by as many as could be among them. 0 if there are none.
void average_precision(const Operands& operands, const Labels& labels, std::int64_t top,
                       double* precision, int threads, Isa isa);

// ---- Between cpu.cpp and driver.cpp ------------------------------------------------------------

// Items that are scored at a time: a multiple of the panels of all instruction sets, and of 64.
inline constexpr std::int64_t kStrip = 512;

struct Tally {
    std::int64_t greater, equal;
};

// What every instruction set has. Scores are as computed, finite or not.
struct Kernels {
    // Lays out gallery rows [first, first + count) of one strip, in whole panels.
    void (*pack)(const Operands&, std::int64_t first, std::int64_t count, float* packed);
    // scores[i * stride + j] of query first + i, i < rows, and the strip's item j < count.
    void (*score)(const Operands&, std::int64_t first, std::int64_t rows, const float* packed,
                  std::int64_t count, float* scores, std::int64_t stride);
    // where [at most count]: the scores that are finite and greater than the threshold; how many.
    std::int64_t (*above)(const float* scores, std::int64_t count, float threshold,
                          std::int32_t* where);
    Tally (*tally)(const float* scores, std::int64_t count, float value);
    // Puts minus infinity in the place of scores that are not finite, and widens [least, most] to
    // the others. What follows takes scores that are settled, or those of codes.
    void (*settle)(float* scores, std::int64_t count, float& least, float& most);
    // bucket [count rounded up to whole vectors]: the greater the score the lower, in [0, last].
    // Equals are in the same.
    void (*buckets)(const float* scores, std::int64_t count, float most, float scale, int last,
                    std::int32_t* bucket);
    // How many of count scores rank before the one at a position.
    std::int64_t (*before)(const float* scores, std::int64_t count, std::int64_t position);
    // bits [count / 64 rounded up]: which items [first, first + count) are relevant to a query.
    void (*relevant)(const Labels&, std::int64_t query, std::int64_t items, std::int64_t first,
                     std::int64_t count, std::uint64_t* bits);
};

}  // namespace fedsyn::ranking

FEDSYN_EXTENDED_KERNELS(ranking::Kernels, kRankingKernels, avx512popcount)
