// Compiled once per instruction set: see kernels/common/simd.h. cpu.h has the mathematics.
//
// Rows of the batch stand on the left of the products and weights, as they lie, on the right; only
// G W^T needs its weights transposed, a panel of them at a time. The parameters of many clients and
// their gradient do not fit the cache: what a product needs next is fetched during it.
#include "kernels/mlp/cpu.h"

#include "kernels/common/gemm.h"

namespace fedsyn::FEDSYN_ISA {
namespace {

using namespace mlp;

constexpr int kVector = kLanes<float>;
constexpr std::int64_t kBlockRows = 192;  // at a time, so that their activations stay in the cache
constexpr float kShortest = 1e-12f;       // least norm that is divided by

std::int64_t at_most(std::int64_t value, std::int64_t most) {
    return value < most ? value : most;
}

// Calls body(first, lanes) for the vectors that cover [0, count).
template <class Body>
void vectors(std::int64_t count, Body body) {
    std::int64_t i = 0;
    for (; i + kVector <= count; i += kVector) body(i, kVector);
    if (i < count) body(i, static_cast<int>(count - i));
}

// `value` where the activation `a` is above zero, slope times it below.
Floats leak(Floats a, Floats value, float slope) {
    const Floats below = slope == 0 ? Floats{} : slope * value;  // 0 also for infinite values
    return a <= 0.0f ? below : value;
}

// Finishes A W: the bias, then the activation.
struct Activate {
    const float* bias;
    float slope;
    std::intptr_t ahead = kTileColumns * sizeof(float);  // the next columns of W
    Floats operator()(Floats sums, std::int64_t, std::int64_t j, int lanes) const {
        const Floats z = sums + load(bias + j, lanes);
        return leak(z, z, slope);
    }
};

// Finishes G W^T: the derivative of the activations that are there.
struct Mask {
    const float* a;
    std::int64_t a_row;
    float slope;
    Floats operator()(Floats sums, std::int64_t i, std::int64_t j, int lanes) const {
        return leak(load(a + i * a_row + j, lanes), sums, slope);
    }
};

// The same of the columns from `first` on.
template <class Finish>
struct From {
    const Finish& finish;
    std::int64_t first;
    std::intptr_t ahead;
    Floats operator()(Floats sums, std::int64_t i, std::int64_t j, int lanes) const {
        return finish(sums, i, first + j, lanes);
    }
};

Floats dot(const float* a, const float* b, std::int64_t width) {
    Floats total{};
    vectors(width,
            [&](std::int64_t j, int lanes) { total += load(a + j, lanes) * load(b + j, lanes); });
    return total;
}

// Rows [rows, in] and what they are multiplied with, [in, out].
struct Factors {
    const float* a;
    std::int64_t a_row;
    const float* weight;
    std::int64_t in;
};

// to = finished(a W + b), or finished(a W + x A + b) where there is such a term; [rows, out].
void apply(const Factors& of, const Factors* term, const Activate& finish, float* to,
           std::int64_t to_row, std::int64_t rows, std::int64_t out) {
    const auto product = [&]<bool kAdd>(const Factors& one, const auto& last) {
        gemm<kAdd>(Left{one.a, one.a_row, 1}, Right{one.weight, out}, to, to_row, rows, out, one.in,
                   last);
    };
    if (out > 1 && !term) {
        product.operator()<false>(of, finish);
    } else if (out > 1) {
        product.operator()<false>(of, KeepAhead{{}, finish.ahead});
        product.operator()<true>(*term, finish);
    } else {
        for (std::int64_t i = 0; i < rows; ++i) {  // a column of weights is a row as well
            Floats sums = dot(of.a + i * of.a_row, of.weight, of.in);
            if (term) sums += dot(term->a + i * term->a_row, term->weight, term->in);
            to[i * to_row] = finish(Floats{sum(sums)}, i, 0, 1)[0];
        }
    }
}

// y [rows, width] in the place of u; the norms where they are kept.
void apply_head(Head head, float* u, std::int64_t u_row, std::int64_t rows, std::int64_t width,
                float* norms) {
    for (std::int64_t i = 0; i < rows; ++i, u += u_row) {
        if (head == Head::tanh_unit) {
            vectors(width, [&](std::int64_t j, int lanes) {
                store(u + j, tanh(load(u + j, lanes)), lanes);
            });
        }
        const float norm = __builtin_sqrtf(sum(dot(u, u, width)));
        const float factor = 1 / (norm < kShortest ? kShortest : norm);
        vectors(width, [&](std::int64_t j, int lanes) {
            store(u + j, factor * load(u + j, lanes), lanes);
        });
        if (norms) norms[i] = norm;
    }
}

// du [rows, width] from y, n and dy.
void head_gradient(Head head, const float* y, const float* dy, std::int64_t y_row,
                   const float* norms, std::int64_t rows, std::int64_t width, float* du,
                   std::int64_t du_row) {
    for (std::int64_t i = 0; i < rows; ++i, y += y_row, dy += y_row, du += du_row) {
        const float norm = norms[i];
        const bool flat = norm < kShortest;  // there the norm is a constant
        const float factor = 1 / (flat ? kShortest : norm);
        const float along = flat ? 0 : sum(dot(y, dy, width));
        vectors(width, [&](std::int64_t j, int lanes) {
            const Floats unit = load(y + j, lanes);
            Floats value = factor * (load(dy + j, lanes) - along * unit);
            if (head == Head::tanh_unit) {
                const Floats t = (flat ? kShortest : norm) * unit;
                value *= 1.0f - t * t;
            }
            store(du + j, value, lanes);
        });
    }
}

// The sum of the rows, put or added to `to`.
void sum_rows(const float* g, std::int64_t g_row, std::int64_t rows, std::int64_t width, bool add,
              float* to) {
    vectors(width, [&](std::int64_t j, int lanes) {
        constexpr std::int64_t kSums = 4;  // none waits for another
        Floats sums[kSums] = {};
        const std::int64_t whole = rows - rows % kSums;
        for (std::int64_t i = 0; i < whole; i += kSums) {
            for (std::int64_t s = 0; s < kSums; ++s)
                sums[s] += load(g + (i + s) * g_row + j, lanes);
        }
        for (std::int64_t i = whole; i < rows; ++i)
            sums[i - whole] += load(g + i * g_row + j, lanes);
        const Floats total = (sums[0] + sums[2]) + (sums[1] + sums[3]);
        store(to + j, add ? load(to + j, lanes) + total : total, lanes);
    });
}

// dW (+)= A^T G, [rows, in] and [rows, out] to [in, out].
template <bool kAdd>
void weight_gradient(const float* a, std::int64_t a_row, const float* g, std::int64_t g_row,
                     float* to, std::int64_t rows, std::int64_t in, std::int64_t out) {
    if (out > 1) {
        gemm<kAdd>(Left{a, 1, a_row}, Right{g, g_row}, to, out, in, out, rows, KeepFar{});
    } else {  // g^T A lies in the same way, and fills the vectors
        gemm<kAdd>(Left{g, 1, g_row}, Right{a, a_row}, to, in, 1, in, rows);
    }
}

// to (+)= finished(G W^T), [rows, out] to [rows, in]; `packed` holds a panel of W^T.
template <bool kAdd, class Finish>
void carry_back(const float* g, std::int64_t g_row, const float* weight, const Finish& finish,
                float* to, std::int64_t to_row, std::int64_t rows, std::int64_t in,
                std::int64_t out, float* packed) {
    const Left left{g, g_row, 1};
    if (out == 1) {
        gemm<kAdd>(left, Right{weight, in}, to, to_row, rows, in, 1, finish);
        return;
    }
    for (std::int64_t j = 0; j < in; j += kTileColumns) {
        const std::int64_t columns = at_most(in - j, kTileColumns);
        const Right right = pack_rows(weight + j * out, out, columns, out, packed);
        // A panel of W^T is as large as its rows of W: the next are fetched step by step.
        const float* const next = weight + (j + columns) * out;
        const std::intptr_t ahead =
            reinterpret_cast<std::intptr_t>(next) - reinterpret_cast<std::intptr_t>(packed);
        const From<Finish> from{finish, j, ahead};
        gemm<kAdd>(left, right, to + j, to_row, rows, columns, out, from);
    }
}

std::int64_t widest(const Tower& tower, std::int64_t from) {
    std::int64_t most = 0;
    for (std::int64_t l = from; l <= tower.layers; ++l) {
        if (tower.widths[l] > most) most = tower.widths[l];
    }
    return most;
}

std::int64_t forward_scratch(const Tower& tower, bool kept) {
    return kept ? 0 : 2 * kBlockRows * widest(tower, 1);
}

std::int64_t backward_scratch(const Tower& tower) {
    return 2 * kBlockRows * widest(tower, 1) + packed_size(kTileColumns, widest(tower, 1));
}

void forward(const Tower& tower, const Rows& all, std::int64_t begin, std::int64_t end,
             float* scratch) {
    const std::int64_t side = kBlockRows * widest(tower, 1);
    const std::int64_t width = tower.widths[tower.layers];
    for (std::int64_t first = begin; first < end; first += kBlockRows) {
        const std::int64_t rows = at_most(end - first, kBlockRows);
        const float* const x = all.x + first * all.x_row;
        const Factors term{x, all.x_row, tower.params + layer_parameters(tower), tower.widths[0]};
        const float* a = x;
        std::int64_t a_row = all.x_row;
        const float* weight = tower.params;
        float* kept = all.kept;
        float* const out = all.out + first * all.out_row;
        for (std::int64_t l = 1; l <= tower.layers; ++l) {
            const std::int64_t in = tower.widths[l - 1], outs = tower.widths[l];
            const bool last = l == tower.layers;
            const std::int64_t to_row = last ? all.out_row : outs;
            float* const to = last ? out : kept ? kept + first * to_row : scratch + (l & 1) * side;
            const Activate finish{weight + in * outs, last ? 1 : tower.slope};
            apply({a, a_row, weight, in}, last && tower.skip != Skip::none ? &term : nullptr,
                  finish, to, to_row, rows, outs);
            weight += (in + 1) * outs;
            if (kept && !last) kept += all.count * to_row;
            a = to;
            a_row = to_row;
        }
        if (tower.head != Head::linear) {
            float* const norms = kept ? kept + first : nullptr;
            apply_head(tower.head, out, all.out_row, rows, width, norms);
        }
    }
}

void backward(const Tower& tower, const Rows& all, const Gradients& to, std::int64_t begin,
              std::int64_t end, float* scratch) {
    const std::int64_t side = kBlockRows * widest(tower, 1);
    float* const packed = scratch + 2 * side;
    for (std::int64_t first = begin; first < end; first += kBlockRows) {
        const std::int64_t rows = at_most(end - first, kBlockRows);
        std::int64_t at = layer_parameters(tower);  // behind the layer's bias
        const float* kept = all.kept;               // behind its activations
        for (std::int64_t l = 1; l < tower.layers; ++l) kept += all.count * tower.widths[l];
        const auto add_weights = [&](const float* a, std::int64_t a_row, const float* g,
                                     std::int64_t g_row, std::int64_t in, std::int64_t out) {
            if (first > begin) {
                weight_gradient<true>(a, a_row, g, g_row, to.params + at, rows, in, out);
            } else {
                weight_gradient<false>(a, a_row, g, g_row, to.params + at, rows, in, out);
            }
        };

        const std::int64_t top = tower.widths[tower.layers];
        const float* g = to.out + first * all.out_row;
        std::int64_t g_row = all.out_row;
        if (tower.head != Head::linear) {
            float* const du = scratch + (tower.layers & 1) * side;
            head_gradient(tower.head, all.out + first * all.out_row, g, g_row, kept + first, rows,
                          top, du, top);
            g = du;
            g_row = top;
        }
        const float* const x = all.x + first * all.x_row;
        float* const to_x = to.x ? to.x + first * all.x_row : nullptr;
        if (tower.skip != Skip::none) {  // while G_L is there; the layers' part of dx is added
            const std::int64_t in = tower.widths[0];
            if (to.params && tower.skip == Skip::trained)
                add_weights(x, all.x_row, g, g_row, in, top);
            if (to_x) {
                carry_back<false>(g, g_row, tower.params + at, Keep{}, to_x, all.x_row, rows, in,
                                  top, packed);
            }
        }
        for (std::int64_t l = tower.layers; l > 0; --l) {
            const std::int64_t in = tower.widths[l - 1], out = tower.widths[l];
            at -= (in + 1) * out;
            const float* const weight = tower.params + at;
            const std::int64_t a_row = l > 1 ? in : all.x_row;
            if (l > 1) kept -= all.count * a_row;
            const float* const a = l > 1 ? kept + first * a_row : x;
            if (to.params) {
                add_weights(a, a_row, g, g_row, in, out);
                sum_rows(g, g_row, rows, out, first > begin, to.params + at + in * out);
            }
            if (l > 1) {
                float* const next = scratch + ((l - 1) & 1) * side;
                carry_back<false>(g, g_row, weight, Mask{a, a_row, tower.slope}, next, a_row, rows,
                                  in, out, packed);
                g = next;
                g_row = a_row;
            } else if (to_x && tower.skip != Skip::none) {
                carry_back<true>(g, g_row, weight, Keep{}, to_x, all.x_row, rows, in, out, packed);
            } else if (to_x) {
                carry_back<false>(g, g_row, weight, Keep{}, to_x, all.x_row, rows, in, out, packed);
            }
        }
    }
}

}  // namespace

extern constexpr mlp::Kernels kMlpKernels{forward_scratch, backward_scratch, forward, backward};

}  // namespace fedsyn::FEDSYN_ISA
