// Lays out the rows, shares the blocks out to threads and puts their results together.
#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/info_nce/blocks.h"
#include "kernels/info_nce/cpu.h"

namespace fedsyn::info_nce {
namespace {

// Groups of rows whose parts of the columns' sums are kept apart, and groups of columns whose parts
// of dx are: as many as threads could ever be busy, so that memory stays linear.
constexpr std::int64_t kMostRowGroups = 64;
constexpr std::int64_t kMostColumnGroups = 16;

// Rows that a thread lays out, or finishes, at a time.
constexpr std::int64_t kLayoutRows = 512;
constexpr std::int64_t kFinishedRows = 16;

template <class T>
const Kernels<T>& kernels_of(Isa isa) {
    if constexpr (std::is_same_v<T, float>) {
        return kInfoNceKernels[isa];
    } else {
        return kInfoNceBfloat16Kernels[isa];
    }
}

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

// Memory for elements of any size.
template <class T>
Scratch elements(std::int64_t count) {
    return Scratch(ceil_div(count * static_cast<std::int64_t>(sizeof(T)), sizeof(float)));
}

template <class T>
T* as(const Scratch& scratch) {
    return reinterpret_cast<T*>(scratch.data());
}

std::vector<Scratch> per_thread(const Team& team, std::int64_t floats) {
    std::vector<Scratch> scratch;
    for (int thread = 0; thread < team.size(); ++thread) scratch.emplace_back(floats);
    return scratch;
}

// The rows of one client that take part, laid out for the products.
template <class T>
class Client {
  public:
    Client(const Problem<T>& problem, std::int64_t client, const Kernels<T>& kernels, Team& team)
        : padded_(ceil_div(problem.width, kStep<T>) * kStep<T>),
          index_(kept(problem, client)),
          m_(problem.valid ? static_cast<std::int64_t>(index_.size()) : problem.m),
          n_(problem.valid ? m_ : problem.n),
          x_(elements<T>(gathered(problem.width) ? m_ * padded_ : 0)),
          y_(elements<T>(gathered(problem.width) ? n_ * padded_ : 0)),
          packed_(elements<Step<T>>(kernels.packed_size(n_, padded_))),
          x_steps_(steps(m_)),
          y_steps_(steps(n_)) {
        const T* x = problem.x + client * problem.m * problem.width;
        const T* y = problem.y + client * problem.n * problem.width;
        if (gathered(problem.width)) {
            copy(x, problem.width, m_, as<T>(x_));
            copy(y, problem.width, n_, as<T>(y_));
            x = as<T>(x_);
            y = as<T>(y_);
        }
        const float scale = problem.scale[client];
        dense = {x,
                 y,
                 m_,
                 n_,
                 padded_,
                 problem.offset,
                 scale,
                 true,
                 as<Step<T>>(packed_),
                 as<Step<T>>(x_steps_),
                 as<Step<T>>(y_steps_)};
        std::vector<float> squares(ceil_div(m_, kLayoutRows) + ceil_div(n_, kLayoutRows), 0.0f);
        const std::int64_t own = ceil_div(m_, kLayoutRows);
        team.each(static_cast<std::int64_t>(squares.size()), [&](std::int64_t task, int) {
            const bool of_x = task < own;
            const std::int64_t first = (of_x ? task : task - own) * kLayoutRows;
            const std::int64_t last = std::min(of_x ? m_ : n_, first + kLayoutRows);
            const T* rows = of_x ? x : y;
            squares[task] = kernels.largest_square(rows + first * padded_, last - first, padded_);
            kernels.interleave(rows, padded_, first, last, as<Step<T>>(of_x ? x_steps_ : y_steps_));
            if (!of_x) kernels.pack(rows, padded_, first, last, as<Step<T>>(packed_));
        });
        const auto largest = [&](std::int64_t first, std::int64_t last) {
            float most = 0;
            for (std::int64_t task = first; task < last; ++task) {
                if (!(squares[task] <= most)) most = squares[task];
            }
            return std::sqrt(most);
        };
        const auto tasks = static_cast<std::int64_t>(squares.size());
        // A bound that is not a number is not below either.
        dense.shifted = !(std::abs(scale) * largest(0, own) * largest(own, tasks) <= kUnshifted);
    }

    // Where row i of the laid out rows comes from and its results belong.
    std::int64_t source(std::int64_t i) const { return index_.empty() ? i : index_[i]; }

    Dense<T> dense;

  private:
    static std::vector<std::int64_t> kept(const Problem<T>& problem, std::int64_t client) {
        std::vector<std::int64_t> index;
        if (!problem.valid) return index;
        const bool* valid = problem.valid + client * problem.m;
        for (std::int64_t i = 0; i < problem.m; ++i) {
            if (valid[i]) index.push_back(i);
        }
        return index;
    }
    bool in_place() const { return index_.empty() || index_.back() + 1 == m_; }
    bool gathered(std::int64_t width) const { return !in_place() || width != padded_; }
    Scratch steps(std::int64_t count) const {
        return elements<Step<T>>(kStep<T> > 1 ? ceil_div(count, kStep<T>) * padded_ : 0);
    }
    void copy(const T* rows, std::int64_t width, std::int64_t count, T* to) const {
        for (std::int64_t i = 0; i < count; ++i) {
            std::copy_n(rows + source(i) * width, width, to + i * padded_);
            std::fill_n(to + i * padded_ + width, padded_ - width, T{});
        }
    }

    std::int64_t padded_;
    std::vector<std::int64_t> index_;
    std::int64_t m_;
    std::int64_t n_;
    Scratch x_;
    Scratch y_;
    Scratch packed_;
    Scratch x_steps_;
    Scratch y_steps_;
};

// Contiguous shares of `blocks` blocks for `groups` groups.
struct Range {
    std::int64_t first;
    std::int64_t last;
};

Range share(std::int64_t group, std::int64_t groups, std::int64_t blocks, std::int64_t size,
            std::int64_t end) {
    return {blocks * group / groups * size, std::min(end, blocks * (group + 1) / groups * size)};
}

template <class T>
void forward_client(const Problem<T>& problem, std::int64_t client, const Kernels<T>& kernels,
                    float* rows, float* columns, float* loss, Team& team) {
    const Client<T> of(problem, client, kernels, team);
    const Dense<T>& at = of.dense;
    if (problem.valid) {
        std::fill_n(rows, problem.m, 0.0f);
        std::fill_n(columns, problem.n, 0.0f);
    }
    if (loss) *loss = 0;
    if (at.m == 0 || at.n == 0) return;

    const std::int64_t row_blocks = ceil_div(at.m, kBlockRows);
    const std::int64_t groups = std::min(row_blocks, kMostRowGroups);
    const Scratch column_max(groups * at.n), column_sum(groups * at.n), both(at.m + at.n);
    float* const dense_rows = both.data();
    float* const dense_columns = both.data() + at.m;
    const std::vector<Scratch> scratch = per_thread(team, kernels.scratch);
    team.each(groups, [&](std::int64_t group, int thread) {
        const Range range = share(group, groups, row_blocks, kBlockRows, at.m);
        kernels.forward(at, range.first, range.last, dense_rows, column_max.data() + group * at.n,
                        column_sum.data() + group * at.n, scratch[thread].data());
    });
    team.each(ceil_div(at.n, kLayoutRows), [&](std::int64_t task, int) {
        const std::int64_t first = task * kLayoutRows;
        kernels.merge(column_max.data(), column_sum.data(), groups, at.n, first,
                      std::min(at.n, first + kLayoutRows), dense_columns);
    });
    for (std::int64_t i = 0; i < at.m; ++i) rows[of.source(i)] = dense_rows[i];
    for (std::int64_t j = 0; j < at.n; ++j) columns[of.source(j)] = dense_columns[j];
    if (!loss) return;
    double total = -kernels.positives(at, 0, at.m);
    for (std::int64_t i = 0; i < at.m; ++i) {
        total += 0.5 * (static_cast<double>(dense_rows[i]) + dense_columns[i]);
    }
    *loss = static_cast<float>(total / static_cast<double>(at.m));
}

template <class T>
void backward_client(const Problem<T>& problem, std::int64_t client, const Kernels<T>& kernels,
                     float grad, const float* rows, const float* columns, T* dx, T* dy,
                     float* dscale, Team& team) {
    const std::int64_t width = problem.width;
    const Client<T> of(problem, client, kernels, team);
    const Dense<T>& at = of.dense;
    if (problem.valid || at.m == 0 || at.n == 0) {
        std::fill_n(dx, problem.m * width, T{});
        std::fill_n(dy, problem.n * width, T{});
    }
    *dscale = 0;
    if (at.m == 0 || at.n == 0) return;

    const Scratch lse(at.m + at.n), weighed(at.m + at.n);
    for (std::int64_t i = 0; i < at.m; ++i) lse.data()[i] = rows[of.source(i)];
    for (std::int64_t j = 0; j < at.n; ++j) lse.data()[at.m + j] = columns[of.source(j)];
    const float weight = 0.5f * grad / static_cast<float>(at.m);
    kernels.weigh(lse.data(), at.m + at.n, weight, at.shifted, weighed.data());
    const Weights weights{weighed.data(), weighed.data() + at.m, weight};

    const std::int64_t column_blocks = ceil_div(at.n, kBlockColumns);
    const std::int64_t groups = std::min(column_blocks, kMostColumnGroups);
    const std::int64_t part = kBlockRows * at.width;
    const Scratch dx_parts(groups * part), dy_sums(at.n * at.width);
    std::vector<double> products(ceil_div(at.m, kBlockRows) * kBlockRows, 0.0);
    const std::vector<Scratch> scratch = per_thread(team, kernels.scratch);
    for (std::int64_t row = 0; row < at.m; row += kBlockRows) {
        const std::int64_t height = std::min(kBlockRows, at.m - row);
        team.each(groups, [&](std::int64_t group, int thread) {
            const Range range = share(group, groups, column_blocks, kBlockColumns, at.n);
            for (std::int64_t j = range.first; j < range.last; j += kBlockColumns) {
                kernels.backward(at, weights, row, height, j,
                                 std::min(kBlockColumns, range.last - j),
                                 dx_parts.data() + group * part, j > range.first, dy_sums.data(),
                                 row > 0, scratch[thread].data());
            }
        });
        team.each(ceil_div(height, kFinishedRows), [&](std::int64_t task, int) {
            const std::int64_t last = std::min(height, (task + 1) * kFinishedRows);
            for (std::int64_t i = task * kFinishedRows; i < last; ++i) {
                products[row + i] =
                    kernels.finish(dx_parts.data() + i * at.width, groups, part, width, at.scale,
                                   at.x + (row + i) * at.width, dx + of.source(row + i) * width);
            }
        });
    }
    team.each(ceil_div(at.n, kLayoutRows), [&](std::int64_t task, int) {
        const std::int64_t last = std::min(at.n, (task + 1) * kLayoutRows);
        for (std::int64_t j = task * kLayoutRows; j < last; ++j) {
            kernels.finish(dy_sums.data() + j * at.width, 1, 0, width, at.scale,
                           static_cast<const T*>(nullptr), dy + of.source(j) * width);
        }
    });
    double total = 0;
    for (const double product : products) total += product;
    *dscale = static_cast<float>(total);
}

// Clients side by side if there are enough of them; else the threads share every client's blocks.
template <class T, class Body>
void each_client(const Problem<T>& problem, int threads, Body body) {
    const std::int64_t pairs = problem.m * problem.n;
    const bool large = pairs >= 4 * kBlockRows * kBlockColumns;
    if (large && problem.clients < threads) {
        Team team(threads);
        for (std::int64_t client = 0; client < problem.clients; ++client) body(client, team);
        return;
    }
    parallel_rows(problem.clients, pairs * problem.width / 16, threads,
                  [&](std::int64_t begin, std::int64_t end) {
                      Team alone(1);
                      for (std::int64_t client = begin; client < end; ++client) body(client, alone);
                  });
}

}  // namespace

template <class T>
void forward(const Problem<T>& problem, float* rows, float* columns, float* loss, int threads,
             Isa isa) {
    const Kernels<T>& kernels = kernels_of<T>(isa);
    each_client(problem, threads, [&](std::int64_t client, Team& team) {
        forward_client(problem, client, kernels, rows + client * problem.m,
                       columns + client * problem.n, loss ? loss + client : nullptr, team);
    });
}

template <class T>
void backward(const Problem<T>& problem, const float* grad, const float* rows, const float* columns,
              T* dx, T* dy, float* dscale, int threads, Isa isa) {
    const Kernels<T>& kernels = kernels_of<T>(isa);
    each_client(problem, threads, [&](std::int64_t client, Team& team) {
        backward_client(problem, client, kernels, grad[client], rows + client * problem.m,
                        columns + client * problem.n, dx + client * problem.m * problem.width,
                        dy + client * problem.n * problem.width, dscale + client, team);
    });
}

template void forward(const Problem<float>&, float*, float*, float*, int, Isa);
template void forward(const Problem<Bfloat16>&, float*, float*, float*, int, Isa);
template void backward(const Problem<float>&, const float*, const float*, const float*, float*,
                       float*, float*, int, Isa);
template void backward(const Problem<Bfloat16>&, const float*, const float*, const float*,
                       Bfloat16*, Bfloat16*, float*, int, Isa);

}  // namespace fedsyn::info_nce
