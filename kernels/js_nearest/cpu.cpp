// Compiled once per instruction set: see kernels/common/simd.h; cpu.h has the steps.
#include <cstdint>

#include "kernels/common/gemm.h"
#include "kernels/js_divergence/terms.h"
#include "kernels/js_nearest/blocks.h"

namespace fedsyn::FEDSYN_ISA {
namespace {

using js_nearest::Block;
using js_nearest::Clients;

constexpr float kLn2 = Constants<float>::kLn2;
constexpr float kInfinity = __builtin_huge_valf();

// What rounding may take from or add to h^2, an estimate and a divergence, for sums of 1: a sum of
// k terms is off by at most k 2^-24 of their sizes, and they are made of a few such sums.
inline float slack_of(std::int64_t k) {
    return static_cast<float>(k + 64) * 4.8e-7f;
}

// -sum_k m_k ln m_k of m = value(i, count).
template <class Value>
inline float entropy_of(std::int64_t k, Value value) {
    const Floats tiny = broadcast(Constants<float>::kTiny);
    return -sum_over<float>(k, [=](std::int64_t i, int count) {
        const Floats m = value(i, count);
        return m * log(at_least(tiny, m));
    });
}

inline float entropy_of(const float* p, std::int64_t k) {
    return entropy_of(k, [=](std::int64_t i, int count) { return load(p + i, count); });
}

inline float half_sum_of(const float* p, std::int64_t k) {
    return 0.5f * sum_over<float>(k, [=](std::int64_t i, int count) { return load(p + i, count); });
}

// A lower bound: divergences end at ln 2, whatever is beyond equals it.
template <class V>
inline V bound(V value) {
    const V ceiling = V{} + kLn2;
    return value > ceiling ? ceiling : value;
}

inline void square_roots(const float* p, std::int64_t count, float* roots) {
    constexpr int lanes = kLanes<float>;
    for (std::int64_t i = 0; i < count; i += lanes) {
        const int some = static_cast<int>(count - i < lanes ? count - i : lanes);
        store(roots + i, sqrt(load(p + i, some)), some);
    }
}

std::int64_t js_nearest_packed(std::int64_t clients, std::int64_t k) {
    return packed_size(clients, k);
}

void js_nearest_pack(const float* q, std::int64_t clients, std::int64_t k, float* scratch,
                     float* packed, float* half_sum, float* entropy) {
    square_roots(q, clients * k, scratch);
    pack_rows(scratch, k, clients, k, packed);
    for (std::int64_t c = 0; c < clients; ++c) {
        half_sum[c] = half_sum_of(q + c * k, k);
        entropy[c] = entropy_of(q + c * k, k);
    }
}

std::int64_t js_nearest_scratch(const Clients& clients, std::int64_t rows) {
    return rows * (clients.k + clients.count) + 2 * clients.count;
}

void js_nearest_block(const Clients& clients, const Block& block, float* scratch) {
    const std::int64_t k = clients.k;
    const std::int64_t count = clients.count;
    float* roots = scratch;
    float* affinity = roots + block.rows * k;  // [rows, count]
    float* lower = affinity + block.rows * count;
    auto* left = reinterpret_cast<std::int32_t*>(lower + count);  // clients that may win
    square_roots(block.p, block.rows * k, roots);
    gemm<false>({roots, k, 1}, {clients.packed, kTileColumns, k * kTileColumns}, affinity, count,
                block.rows, count, k);
    for (std::int64_t row = 0; row < block.rows; ++row) {
        // All comparisons keep what is not a number.
        const float* p = block.p + row * k;
        const float half_sum = half_sum_of(p, k);
        Floats least = broadcast(kInfinity);
        for (std::int64_t c = 0; c < count; c += kLanes<float>) {
            const int some =
                static_cast<int>(count - c < kLanes<float> ? count - c : kLanes<float>);
            const Floats sums = half_sum + load(clients.half_sum + c, some);
            const Floats squared = sums - load(affinity + row * count + c, some);
            const Floats slack = slack_of(k) * sums;
            const Floats upper = squared + slack;
            least = upper < least && lane_numbers() < some ? upper : least;
            store(lower + c, bound(kLn2 * squared - slack), some);
        }
        float upper = -largest(-least);
        std::int64_t few = 0;
        for (std::int64_t c = 0; c < count; ++c) {
            left[few] = static_cast<std::int32_t>(c);
            few += !(lower[c] > upper);
        }
        if (few > 1) {
            const float entropy = entropy_of(p, k);
            for (std::int64_t i = 0; i < few; ++i) {
                const std::int64_t c = left[i];
                const float* q = clients.q + c * k;
                const float of_sum = entropy_of(k, [=](std::int64_t j, int some) {
                    return load(p + j, some) + load(q + j, some);
                });
                const float sums = half_sum + clients.half_sum[c];
                const float estimate = 0.5f * (of_sum - entropy - clients.entropy[c]) + kLn2 * sums;
                const float slack = slack_of(k) * sums;
                if (estimate + slack < upper) upper = estimate + slack;
                lower[c] = bound(estimate - slack);
            }
        }
        float best = kInfinity;
        std::int64_t client = 0;
        for (std::int64_t i = 0; i < few && best == best; ++i) {
            const std::int64_t c = left[i];
            if (lower[c] > upper) continue;
            const float value = divergence(p, clients.q + c * k, k);
            if (value >= best) continue;
            best = value;
            client = c;
        }
        block.divergence[row] = best;
        block.client[row] = client;
    }
}

}  // namespace

extern constexpr js_nearest::Kernels kJsNearestKernels{js_nearest_packed, js_nearest_pack,
                                                       js_nearest_scratch, js_nearest_block};

}  // namespace fedsyn::FEDSYN_ISA
