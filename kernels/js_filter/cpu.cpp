// Compiled once per instruction set: see kernels/common/simd.h; cpu.h has the mathematics.
#include <cstdint>

#include "kernels/common/gemm.h"
#include "kernels/js_divergence/terms.h"
#include "kernels/js_filter/blocks.h"

namespace fedsyn::FEDSYN_ISA {
namespace {

using js_filter::Block;
using js_filter::Client;

constexpr float kLn2 = Constants<float>::kLn2;
constexpr float kInfinity = __builtin_huge_valf();

// What rounding may take from or add to h^2 and to the divergence: a sum of k terms is off by at
// most k 2^-24 of itself, and they are made of a few such sums.
inline float slack_of(std::int64_t k) {
    return static_cast<float>(k + 64) * 2.4e-7f;
}

// One candidate a lane, so that sums over prototypes need no sums over lanes.
constexpr int kPanel = kTileColumns;

// Rows side by side, times the factor: [width, kPanel], zero beyond `count`.
template <class Row>
inline void pack(Row row, std::int64_t count, std::int64_t width, float factor, float* panel) {
    for (int lane = 0; lane < kPanel; ++lane) {
        const float* from = lane < count ? row(lane) : nullptr;
        for (std::int64_t d = 0; d < width; ++d) {
            panel[d * kPanel + lane] = from != nullptr ? factor * from[d] : 0.0f;
        }
    }
}

// Logits of a panel are in base 2 and halved, so that u = 2^logit is the square root of e^(s x.p).
struct Logits {
    float* x;  // [count, kPanel]
    float* y;
};

inline void logits_of(const float* x, const float* y, const Client& client, std::int64_t width,
                      Logits logits) {
    const auto product = [&](const float* prototypes, const float* panel, float* out) {
        gemm<false>({prototypes, width, 1}, {panel, kPanel, width * kPanel}, out, kPanel,
                    client.count, kPanel, width);
    };
    product(client.x, x, logits.x);
    product(client.y, y, logits.y);
}

struct Sums {
    Floats xx, yy, xy;  // of the roots' products
    Ints chosen;        // where x + y is greatest (if kExact)
};

// One vector of lanes. If kExact, keeps the roots and makes the logits relative to their maxima.
template <bool kExact>
inline Sums sums_of(Logits logits, std::int64_t count, Logits roots) {
    // Far below the maximum nothing counts any more; squares and quotients stay normal numbers.
    const Floats least = broadcast(-50.0f);
    Sums sums{};
    Floats max_x = load(logits.x);
    Floats max_y = load(logits.y);
    Floats greatest = max_x + max_y;
    for (std::int64_t k = 1; k < count; ++k) {
        const Floats x = load(logits.x + k * kPanel);
        const Floats y = load(logits.y + k * kPanel);
        max_x = at_least(max_x, x);
        max_y = at_least(max_y, y);
        if constexpr (kExact) {
            const auto better = x + y > greatest;
            greatest = better ? x + y : greatest;
            sums.chosen = better ? Ints{} + static_cast<int>(k) : sums.chosen;
        }
    }
    const auto root = [=](float* logit, Floats max, float* kept) {
        const Floats relative = load(logit) - max;
        const Floats u = exp2_bounded(relative < least ? least : relative);
        if constexpr (kExact) {
            store(logit, relative);
            store(kept, u);
        }
        return u;
    };
    for (std::int64_t k = 0; k < count; ++k) {
        const Floats x = root(logits.x + k * kPanel, max_x, roots.x + k * kPanel);
        const Floats y = root(logits.y + k * kPanel, max_y, roots.y + k * kPanel);
        sums.xx += x * x;
        sums.yy += y * y;
        sums.xy += x * y;
    }
    return sums;
}

struct Results {
    float divergence[kPanel];
    int assignment[kPanel];
};

// With t = (ln p - ln q) / 2:  p ln(2p/m) + q ln(2q/m) = m (t tanh t - ln cosh t),  m = p + q.
//
// Where |t| < 1, by a polynomial of t^2 (minimax, 1e-7): relative accuracy for small divergences.
// Elsewhere by the only logarithm, as the logits are those of p and q but for a constant.
//
// Not inlined: all callers run the same instructions.
__attribute__((noinline)) void exact(const float* x, const float* y, const Client& client,
                                     std::int64_t width, float* scratch, Results& results) {
    const std::int64_t size = client.count * kPanel;
    logits_of(x, y, client, width, {scratch, scratch + size});
    for (int part = 0; part < kPanel; part += kLanes<float>) {
        const Logits logits{scratch + part, scratch + size + part};
        const Logits roots{logits.x + 2 * size, logits.y + 2 * size};
        const Sums sums = sums_of<true>(logits, client.count, roots);
        constexpr float kTwoLn2 = 1.38629436f;
        const Floats by_x = 1.0f / sums.xx;
        const Floats by_y = 1.0f / sums.yy;
        const Floats lse_x = log(sums.xx);
        const Floats lse_y = log(sums.yy);
        const Floats half_difference = 0.5f * (lse_y - lse_x);
        Floats total{};
        for (std::int64_t k = 0; k < client.count; ++k) {
            const Floats logit_x = load(logits.x + k * kPanel);
            const Floats logit_y = load(logits.y + k * kPanel);
            const Floats root_x = load(roots.x + k * kPanel);
            const Floats root_y = load(roots.y + k * kPanel);
            const Floats p = root_x * root_x * by_x;
            const Floats q = root_y * root_y * by_y;
            const Floats m = p + q;
            const Floats t = 0.69314718f * (logit_x - logit_y) + half_difference;
            const Floats t2 = t * t;
            Floats series = 9.4874428e-4f * t2 - 5.6298662e-3f;
            series = series * t2 + 1.8192954e-2f;
            series = series * t2 - 4.6736234e-2f;
            series = series * t2 + 1.1103299e-1f;
            series = series * t2 - 2.4999518e-1f;
            series = series * t2 + 4.9999995e-1f;
            const Floats logs = p * (kTwoLn2 * logit_x - lse_x) + q * (kTwoLn2 * logit_y - lse_y) -
                                m * (log(m) - 0.69314718f);
            total += t2 < 1.0f ? m * t2 * series : logs;
        }
        for (int lane = 0; lane < kLanes<float>; ++lane) {
            results.divergence[part + lane] = clamp(0.5f * total[lane]);
            results.assignment[part + lane] = sums.chosen[lane];
        }
    }
}

// The least divergence so far.
inline void settle(const Client& client, float divergence, int assignment, const Block& block,
                   std::int64_t row) {
    float& best = block.divergence[row];
    const bool known = best == best;
    if (!known || divergence >= best) return;  // NaN wins, and stays
    best = divergence;
    block.assignment[row] = client.index == nullptr ? assignment : client.index[assignment];
    if (block.client != nullptr) block.client[row] = client.number;
}

// h^2 of a panel's rows from a client.
inline void distance(const float* x, const float* y, const Client& client, std::int64_t width,
                     float* scratch, float* squared) {
    const std::int64_t size = client.count * kPanel;
    logits_of(x, y, client, width, {scratch, scratch + size});
    for (int part = 0; part < kPanel; part += kLanes<float>) {
        const Logits logits{scratch + part, scratch + size + part};
        const Sums sums = sums_of<false>(logits, client.count, {});
        store(squared + part, 1.0f - sums.xy / sqrt(sums.xx * sums.yy));
    }
}

std::int64_t js_filter_scratch(std::int64_t rows, std::int64_t clients, std::int64_t count,
                               std::int64_t width) {
    const std::int64_t padded = (rows + kPanel - 1) / kPanel * kPanel;
    return 2 * (padded + kPanel) * width + 4 * kPanel * count + (clients + 1) * padded;
}

void js_filter_block(const Client* clients, std::int64_t count, std::int64_t width, float scale,
                     const Block& block, float* scratch) {
    const std::int64_t panels = (block.rows + kPanel - 1) / kPanel;
    const std::int64_t size = width * kPanel;
    float* x = scratch;
    float* y = x + panels * size;
    float* gathered = y + panels * size;
    float* upper = gathered + 2 * size;
    float* lower = upper + panels * kPanel;  // [count, panels * kPanel]
    float* working = lower + count * panels * kPanel;
    const float factor = 0.5f * 1.44269504f * scale;
    for (std::int64_t i = 0; i < panels; ++i) {
        const std::int64_t first = i * kPanel;
        const auto packed = [&](const float* rows, float* panel) {
            pack([=](int lane) { return rows + (first + lane) * width; }, block.rows - first, width,
                 factor, panel + i * size);
        };
        packed(block.x, x);
        packed(block.y, y);
    }
    for (std::int64_t row = 0; row < block.rows; ++row) {
        block.divergence[row] = kInfinity;
        block.assignment[row] = 0;
        if (block.client != nullptr) block.client[row] = 0;
    }
    const auto kept = [=](std::int64_t client, std::int64_t row) {
        return !(lower[client * panels * kPanel + row] > upper[row]);  // NaN is kept
    };

    // The first panel tells whether bounds are worth their while: where more than a fifth of the
    // clients may win, it takes longer to leave the others out than not to.
    std::int64_t bounded = 0;
    bool worthwhile = count > 1;
    for (std::int64_t row = 0; row < panels * kPanel; ++row) upper[row] = kInfinity;
    while (worthwhile && bounded < panels) {
        const std::int64_t end = bounded == 0 ? 1 : panels;
        for (std::int64_t c = 0; c < count; ++c) {
            const float slack = slack_of(clients[c].count);
            for (std::int64_t i = bounded; i < end; ++i) {
                float squared[kPanel];
                distance(x + i * size, y + i * size, clients[c], width, working, squared);
                float* least = upper + i * kPanel;
                float* below = lower + (c * panels + i) * kPanel;
                for (int lane = 0; lane < kPanel; ++lane) {
                    const float above = squared[lane] + slack;
                    if (above < least[lane]) least[lane] = above;
                    below[lane] = kLn2 * (squared[lane] - slack);
                }
            }
        }
        if (bounded == 0) {
            const std::int64_t rows = block.rows < kPanel ? block.rows : kPanel;
            std::int64_t left = 0;
            for (std::int64_t c = 0; c < count; ++c) {
                for (std::int64_t row = 0; row < rows; ++row) left += kept(c, row);
            }
            worthwhile = 5 * left < count * rows;
        }
        bounded = end;
    }

    Results results;
    for (std::int64_t c = 0; c < count; ++c) {
        std::int64_t listed[kPanel];
        int waiting = 0;
        const auto flush = [&] {
            const auto gather = [&](const float* rows, float* panel) {
                pack([&](int lane) { return rows + listed[lane] * width; }, waiting, width, factor,
                     panel);
            };
            gather(block.x, gathered);
            gather(block.y, gathered + size);
            exact(gathered, gathered + size, clients[c], width, working, results);
            for (int lane = 0; lane < waiting; ++lane) {
                settle(clients[c], results.divergence[lane], results.assignment[lane], block,
                       listed[lane]);
            }
            waiting = 0;
        };
        for (std::int64_t i = 0; i < panels; ++i) {
            const std::int64_t first = i * kPanel;
            const std::int64_t after = first + kPanel < block.rows ? first + kPanel : block.rows;
            if (!worthwhile) {
                exact(x + i * size, y + i * size, clients[c], width, working, results);
                for (std::int64_t row = first; row < after; ++row) {
                    settle(clients[c], results.divergence[row - first],
                           results.assignment[row - first], block, row);
                }
                continue;
            }
            for (std::int64_t row = first; row < after; ++row) {
                if (!kept(c, row)) continue;
                listed[waiting++] = row;
                if (waiting == kPanel) flush();
            }
        }
        if (waiting > 0) flush();
    }
}

}  // namespace

extern constexpr js_filter::Kernels kJsFilterKernels{js_filter_scratch, js_filter_block};

}  // namespace fedsyn::FEDSYN_ISA
