// Compiled once per instruction set: see kernels/common/simd.h; cpu.h has the steps.
#include "kernels/ranking/cpu.h"

#include <cstdint>

#include "kernels/common/gemm.h"

namespace fedsyn::FEDSYN_ISA {
namespace {

using namespace ranking;

constexpr int kVector = kLanes<float>;
constexpr float kInfinity = __builtin_huge_valf();
constexpr float kGreatest = 3.402823466e38f;

inline int at_most_vector(std::int64_t count) {
    return static_cast<int>(count < kVector ? count : kVector);
}

// All bits set in the lanes that are finite.
inline Ints is_finite(Floats x) {
    return (x <= kGreatest) & (x >= -kGreatest);
}

// What is not finite is lowest.
inline Floats ranked(Floats x) {
    return is_finite(x) ? x : broadcast(-kInfinity);
}

void pack(const Operands& o, std::int64_t first, std::int64_t count, float* packed) {
    if (o.codes) {
        const auto* rows = static_cast<const std::int32_t*>(o.gallery) + first * o.width;
        pack_rows(rows, o.width, count, o.width, reinterpret_cast<std::int32_t*>(packed));
    } else {
        const auto* rows = static_cast<const float*>(o.gallery) + first * o.width;
        pack_rows(rows, o.width, count, o.width, packed);
    }
}

Ints load_words(const std::int32_t* from) {
    Ints words;
    __builtin_memcpy(&words, from, sizeof words);
    return words;
}

// Minus the Hamming distances: floats hold them exactly.
void score_codes(const std::int32_t* query, std::int64_t rows, const std::int32_t* packed,
                 std::int64_t width, std::int64_t count, float* scores, std::int64_t stride) {
    for (std::int64_t j = 0; j < count; j += kVector) {
        const std::int32_t* words =
            packed + j / kTileColumns * kTileColumns * width + j % kTileColumns;
        const int some = at_most_vector(count - j);
        for (std::int64_t i = 0; i < rows; ++i) {
            Ints distance{};
            for (std::int64_t w = 0; w < width; ++w) {
                distance += popcount(load_words(words + w * kTileColumns) ^ query[i * width + w]);
            }
            store(scores + i * stride + j, __builtin_convertvector(-distance, Floats), some);
        }
    }
}

void score(const Operands& o, std::int64_t first, std::int64_t rows, const float* packed,
           std::int64_t count, float* scores, std::int64_t stride) {
    if (o.codes) {
        score_codes(static_cast<const std::int32_t*>(o.query) + first * o.width, rows,
                    reinterpret_cast<const std::int32_t*>(packed), o.width, count, scores, stride);
    } else {
        const float* query = static_cast<const float*>(o.query) + first * o.width;
        gemm<false>({query, o.width, 1}, {packed, kTileColumns, o.width * kTileColumns}, scores,
                    stride, rows, count, o.width);
    }
}

std::int64_t above(const float* scores, std::int64_t count, float threshold, std::int32_t* where) {
    constexpr std::int64_t kStep = 8 * kVector;  // one test for so many: few scores are above
    const Floats floor = broadcast(threshold);
    std::int64_t found = 0;
    for (std::int64_t i = 0; i < count; i += kStep) {
        if (i + kStep <= count) {
            Floats most[2] = {floor, floor};
            for (int v = 0; v < 8; ++v) {
                most[v % 2] = at_least(most[v % 2], load(scores + i + v * kVector));
            }
            if (true_lanes(at_least(most[0], most[1]) > floor) == 0) continue;
        }
        for (std::int64_t j = i; j < i + kStep && j < count; j += kVector) {
            const int some = at_most_vector(count - j);
            const Floats x = load(scores + j, some);
            const Ints better = (x > floor) & (x <= kGreatest) & (lane_numbers() < some);
            for (unsigned bits = true_lanes(better); bits != 0; bits &= bits - 1) {
                where[found++] = static_cast<std::int32_t>(j + __builtin_ctz(bits));
            }
        }
    }
    return found;
}

inline std::int64_t total(Ints counts) {
    std::int64_t sum = 0;
    for (int lane = 0; lane < kVector; ++lane) sum += counts[lane];
    return sum;
}

Tally tally(const float* scores, std::int64_t count, float value) {
    Ints greater{}, equal{};  // comparisons give -1
    for (std::int64_t i = 0; i < count; i += kVector) {
        const int some = at_most_vector(count - i);
        const Floats x = ranked(load(scores + i, some));
        const Ints live = lane_numbers() < some;
        greater -= (x > value) & live;
        equal -= (x == value) & live;
    }
    return {total(greater), total(equal)};
}

void settle(float* scores, std::int64_t count, float& least, float& most) {
    Floats low = broadcast(least), high = broadcast(most);
    for (std::int64_t i = 0; i < count; i += kVector) {
        const int some = at_most_vector(count - i);
        const Floats x = load(scores + i, some);
        const Ints finite = is_finite(x);
        store(scores + i, finite ? x : broadcast(-kInfinity), some);
        const Ints live = finite & (lane_numbers() < some);
        low = (x < low) & live ? x : low;
        high = (x > high) & live ? x : high;
    }
    least = -largest(-low);
    most = largest(high);
}

void buckets(const float* scores, std::int64_t count, float most, float scale, int last,
             std::int32_t* bucket) {
    const Floats end = broadcast(static_cast<float>(last));
    for (std::int64_t i = 0; i < count; i += kVector) {
        // Rounding is monotone. What is lowest, or not a number by then, goes to the end.
        const Floats place = (most - load(scores + i, at_most_vector(count - i))) * scale;
        const Ints number = __builtin_convertvector(place < end ? place : end, Ints);
        __builtin_memcpy(bucket + i, &number, sizeof number);
    }
}

std::int64_t before(const float* scores, std::int64_t count, std::int64_t position) {
    const Floats value = broadcast(scores[position]);
    std::int64_t better = 0;
    for (std::int64_t i = 0; i < count; i += kVector) {
        const int some = at_most_vector(count - i);
        const Floats x = load(scores + i, some);
        const auto ahead = static_cast<int>(position - i < kVector ? position - i : kVector);
        better += __builtin_popcount(true_lanes(((x > value) & (lane_numbers() < some)) |
                                                ((x == value) & (lane_numbers() < ahead))));
    }
    return better;
}

void relevant(const Labels& labels, std::int64_t query, std::int64_t items, std::int64_t first,
              std::int64_t count, std::uint64_t* bits) {
    const std::int32_t* own = labels.query + query * labels.words;
    for (std::int64_t i = 0; i < count; i += 64) {
        std::uint64_t word = 0;
        for (std::int64_t j = i; j < i + 64 && j < count; j += kVector) {
            const int some = at_most_vector(count - j);
            Ints common{}, different{};
            for (std::int64_t w = 0; w < labels.words; ++w) {
                const auto* at = labels.gallery + w * items + first + j;
                const Ints other =
                    __builtin_bit_cast(Ints, load(reinterpret_cast<const float*>(at), some));
                common |= other & own[w];
                different |= other ^ own[w];
            }
            const Ints match = labels.sets ? common != 0 : different == 0;
            word |= std::uint64_t{true_lanes(match & (lane_numbers() < some))} << (j - i);
        }
        bits[i / 64] = word;
    }
}

}  // namespace

extern constexpr ranking::Kernels kRankingKernels{pack,   score,   above,  tally,
                                                  settle, buckets, before, relevant};

}  // namespace fedsyn::FEDSYN_ISA
