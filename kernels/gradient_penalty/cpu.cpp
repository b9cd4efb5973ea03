// Compiled once per instruction set: see kernels/common/simd.h.
//
// Matrices are transposed, a row of the batch is a column of [width, rows]: then the weights stand
// on the left of every product but the last, where any order will do, and none of them has to be
// laid out anew. cpu.h has the mathematics.
#include "kernels/gradient_penalty/cpu.h"

#include "kernels/common/gemm.h"

namespace fedsyn::FEDSYN_ISA {
namespace {

using gradient_penalty::Batch;
using gradient_penalty::Critic;

inline constexpr std::int64_t kBlockRows = 64;  // of each of real, fake and between at a time

inline std::int64_t at_most(std::int64_t value, std::int64_t most) {
    return value < most ? value : most;
}

// to[j, i] = from[i, j] for `rows` rows i of `width` neighbours j.
inline void transpose(const float* from, std::int64_t rows, std::int64_t width, float* to,
                      std::int64_t to_row) {
    constexpr std::int64_t kSquare = 16;  // the cache lines of both sides are used up at once
    for (std::int64_t left = 0; left < width; left += kSquare) {
        const std::int64_t end = at_most(left + kSquare, width);
        for (std::int64_t i = 0; i < rows; ++i) {
            for (std::int64_t j = left; j < end; ++j) to[j * to_row + i] = from[i * width + j];
        }
    }
}

// Calls f(i, lanes) for the vectors that cover [0, count).
template <class F>
inline void each_vector(std::int64_t count, F f) {
    for (std::int64_t i = 0; i < count; i += kLanes<float>) {
        f(i, static_cast<int>(at_most(count - i, kLanes<float>)));
    }
}

// The derivative of the LeakyReLU whose value is `a`; not a number where that is not.
inline Floats mask(Floats a, float slope) {
    const Floats below = a <= 0.0f ? broadcast(slope) : a;
    return a > 0.0f ? broadcast(1.0f) : below;
}

inline float sum_of(const float* row, std::int64_t count) {
    Floats total{};
    each_vector(count, [&](std::int64_t i, int lanes) { total += load(row + i, lanes); });
    return sum(total);
}

// The sum of (n - 1)^2 over the columns of g [width, count]; g becomes U = factor (1 - 1/n) g.
inline double penalize(float* g, std::int64_t g_row, std::int64_t width, std::int64_t count,
                       float factor) {
    constexpr std::int64_t kRun = 64;  // partial sums keep the rounding of long columns small
    double total = 0;
    each_vector(count, [&](std::int64_t i, int lanes) {
        Floats squares{};
        for (std::int64_t first = 0; first < width; first += kRun) {
            Floats part{};
            for (std::int64_t k = first; k < at_most(first + kRun, width); ++k) {
                const Floats value = load(g + k * g_row + i, lanes);
                part += value * value;
            }
            squares += part;
        }
        Floats scale{};
        for (int lane = 0; lane < lanes; ++lane) {
            const float length = __builtin_sqrtf(squares[lane]);
            const float norm = length < 1e-12f ? 1e-12f : length;
            total += static_cast<double>(norm - 1) * (norm - 1);
            scale[lane] = factor * (1 - 1 / norm);
        }
        for (std::int64_t k = 0; k < width; ++k) {
            float* at = g + k * g_row + i;
            store(at, scale * load(at, lanes), lanes);
        }
    });
    return total;
}

// Some rows of one client: their columns are those of real, of fake and of between, side by side.
class Block {
  public:
    Block(const Critic& critic, const Batch& batch, std::int64_t client, std::int64_t first,
          std::int64_t rows, float* scratch)
        : critic_(critic),
          batch_(batch),
          client_(client),
          first_(first),
          rows_(rows),
          scored_(batch.real ? 2 * rows : 0),
          columns_(scored_ + (batch.between ? rows : 0)),
          kept_(scratch) {
        // An odd number of cache lines: rows that lie a power of two apart share a few sets of it.
        constexpr std::int64_t kLine = 16;
        stride_ = ((columns_ + kLine - 1) / kLine | 1) * kLine;
        std::int64_t total = critic.widths[0];
        std::int64_t widest = 1;
        for (std::int64_t l = 1; l <= critic.layers; ++l) {
            total += critic.widths[l];
            if (critic.widths[l] > widest) widest = critic.widths[l];
        }
        outer_ = kept_ + (total - critic.widths[0]) * stride_;  // there is no G_0
        spare_ = outer_ + total * stride_;
        const std::int64_t packed = packed_size(widest, columns_);
        end_ = spare_ + (packed > widest * stride_ ? packed : widest * stride_);
    }

    std::int64_t scratch() const { return end_ - kept_; }

    // A_l of all columns. Returns the sum of f(fake) - f(real).
    double forward() const {
        float* const inputs = kept(0);
        const std::int64_t width = critic_.widths[0];
        const std::int64_t at = (client_ * batch_.rows + first_) * width;
        if (batch_.real) {
            transpose(batch_.real + at, rows_, width, inputs, stride_);
            transpose(batch_.fake + at, rows_, width, inputs + rows_, stride_);
        }
        if (batch_.between) {
            transpose(batch_.between + at, rows_, width, inputs + scored_, stride_);
        }
        const float slope = critic_.slope;
        for (std::int64_t l = 1; l < critic_.layers; ++l) {
            float* const values = kept(l);
            multiply_rows(l, kept(l - 1), values, columns_);
            for (std::int64_t j = 0; j < critic_.widths[l]; ++j) {
                const float shift = bias(l)[j];
                float* const row = values + j * stride_;
                each_vector(columns_, [=](std::int64_t i, int lanes) {
                    const Floats z = load(row + i, lanes) + shift;
                    store(row + i, z > 0.0f ? z : slope * z, lanes);
                });
            }
        }
        double total = 0;
        if (batch_.real) {
            multiply_rows(critic_.layers, kept(critic_.layers - 1), spare_, scored_);
            const float shift = bias(critic_.layers)[0];
            for (std::int64_t i = 0; i < rows_; ++i) {
                const double real = spare_[i] + shift;
                total += (spare_[rows_ + i] + shift) - real;
            }
        }
        return total;
    }

    // G_l of all columns, or of those between alone; needs A_l.
    void outer_factors(bool all) const {
        const std::int64_t from = all ? 0 : scored_;
        const float share = 1.0f / static_cast<float>(batch_.rows);
        float* const top = outer(critic_.layers);
        for (std::int64_t i = 0; i < columns_; ++i) {
            top[i] = i >= scored_ ? 1.0f : i < rows_ ? -share : share;
        }
        for (std::int64_t l = critic_.layers - 1; l > 0; --l) {
            float* const factors = outer(l) + from;
            multiply_transposed(l + 1, outer(l + 1) + from, factors, columns_ - from);
            times_mask(l, kept(l) + from, factors, factors, columns_ - from);
        }
    }

    // The sum of (n - 1)^2, and U in the place of the inputs between; needs G_l.
    double penalties(float weight) const {
        float* const slopes = kept(0) + scored_;
        multiply_transposed(1, outer(1) + scored_, slopes, rows_);
        const float factor = 2 * weight / static_cast<float>(batch_.rows);
        return penalize(slopes, stride_, critic_.widths[0], rows_, factor);
    }

    // R_l in the place of A_l of the columns between; needs U.
    void adjoint() const {
        for (std::int64_t l = 1; l < critic_.layers; ++l) {
            multiply_rows(l, kept(l - 1) + scored_, spare_, rows_);
            times_mask(l, kept(l) + scored_, spare_, kept(l) + scored_, rows_);
        }
    }

    // This block's share of the gradient, put or added to it.
    template <bool kAdd>
    void gradient(float* to) const {
        for (std::int64_t l = 1; l <= critic_.layers; ++l) {
            const std::int64_t in = critic_.widths[l - 1];
            const std::int64_t out = critic_.widths[l];
            const Right right = pack_rows(outer(l), stride_, out, columns_, spare_);
            gemm<kAdd>(Left{kept(l - 1), stride_, 1}, right, to, out, in, out, columns_);
            to += in * out;
            if (!batch_.real) continue;
            for (std::int64_t j = 0; j < out; ++j) {
                // The last bias cancels between real and fake: no rounding is left of it.
                const float share =
                    l < critic_.layers ? sum_of(outer(l) + j * stride_, scored_) : 0;
                to[j] = kAdd ? to[j] + share : share;
            }
            to += out;
        }
    }

  private:
    const float* weights(std::int64_t l) const {
        return critic_.weights[l - 1] + client_ * critic_.weight_strides[l - 1];
    }
    const float* bias(std::int64_t l) const {
        return critic_.biases[l - 1] + client_ * critic_.bias_strides[l - 1];
    }
    // A_l or R_l; l < layers.
    float* kept(std::int64_t l) const { return kept_ + above(l) * stride_; }
    // G_l; 0 < l <= layers.
    float* outer(std::int64_t l) const { return outer_ + above(l) * stride_; }
    std::int64_t above(std::int64_t l) const {
        std::int64_t rows = 0;
        for (std::int64_t i = 0; i < l; ++i) rows += critic_.widths[i];
        return rows;
    }

    // x W_l of the rows x, here columns.
    void multiply_rows(std::int64_t l, const float* x, float* to, std::int64_t count) const {
        const std::int64_t out = critic_.widths[l];
        gemm<false>(Left{weights(l), 1, out}, Right{x, stride_}, to, stride_, out, count,
                    critic_.widths[l - 1]);
    }
    // x W_l^T of the rows x, here columns.
    void multiply_transposed(std::int64_t l, const float* x, float* to, std::int64_t count) const {
        const std::int64_t out = critic_.widths[l];
        gemm<false>(Left{weights(l), out, 1}, Right{x, stride_}, to, stride_, critic_.widths[l - 1],
                    count, out);
    }
    // to = D_l values, D_l from A_l; `to` may be either of them.
    void times_mask(std::int64_t l, const float* a, const float* values, float* to,
                    std::int64_t count) const {
        const float slope = critic_.slope;
        for (std::int64_t j = 0; j < critic_.widths[l]; ++j) {
            const std::int64_t at = j * stride_;
            each_vector(count, [=](std::int64_t i, int lanes) {
                const Floats derivative = mask(load(a + at + i, lanes), slope);
                store(to + at + i, derivative * load(values + at + i, lanes), lanes);
            });
        }
    }

    const Critic& critic_;
    const Batch& batch_;
    std::int64_t client_, first_, rows_;
    std::int64_t scored_;   // columns of real and fake
    std::int64_t columns_;  // all of them
    std::int64_t stride_;   // from row to row of every matrix
    float *kept_, *outer_;
    float* spare_;  // a product, or a matrix laid out for one
    float* end_;
};

std::int64_t critic_scratch(const Critic& critic, const Batch& batch) {
    return Block(critic, batch, 0, 0, at_most(batch.rows, kBlockRows), nullptr).scratch();
}

void critic_rows(const Critic& critic, const Batch& batch, std::int64_t client, std::int64_t begin,
                 std::int64_t end, float weight, double* sums, float* gradient, float* scratch) {
    sums[0] = sums[1] = 0;
    for (std::int64_t first = begin; first < end; first += kBlockRows) {
        const Block block(critic, batch, client, first, at_most(end - first, kBlockRows), scratch);
        sums[0] += block.forward();
        block.outer_factors(gradient != nullptr);
        if (batch.between) sums[1] += block.penalties(weight);
        if (!gradient) continue;
        if (batch.between) block.adjoint();
        if (first > begin) {
            block.gradient<true>(gradient);
        } else {
            block.gradient<false>(gradient);
        }
    }
}

}  // namespace

extern constexpr gradient_penalty::Kernels kGradientPenaltyKernels{critic_scratch, critic_rows};

}  // namespace fedsyn::FEDSYN_ISA
