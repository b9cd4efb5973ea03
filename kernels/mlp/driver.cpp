// Shares towers, and chunks of long batches, out to threads and adds their gradients up.
#include <algorithm>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/mlp/cpu.h"

namespace fedsyn::mlp {
namespace {

// A long batch is cut into chunks. Those of a gradient are added up in order; how they are cut
// depends on the batch's length alone, so that threads do not change the result.
constexpr std::int64_t kChunkRows = 192;
constexpr std::int64_t kGradientRows = 1024;
constexpr std::int64_t kMostGradients = 8;  // each has memory of its own

// Fewest multiplications worth a thread: about seventy microseconds of a core.
constexpr std::int64_t kThreadGrain = std::int64_t{1} << 23;

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

// The towers, and where the columns of each begin.
class Towers {
  public:
    explicit Towers(const Network& network) {
        const std::int64_t* widths = network.widths;
        for (std::int64_t t = 0; t < network.towers; ++t) {
            const std::int64_t layers = network.lengths[t] - 1;
            const Tower tower{layers, widths, nullptr, network.slope, network.head, network.skip};
            towers_.push_back({tower, ins_, outs_, kept_, params_});
            ins_ += widths[0];
            outs_ += widths[layers];
            kept_ += kept_width(tower);
            params_ += parameters(tower);
            widths += layers + 1;
        }
    }

    std::int64_t size() const { return static_cast<std::int64_t>(towers_.size()); }
    std::int64_t ins() const { return ins_; }
    std::int64_t params() const { return params_; }
    std::int64_t begin_of_params(std::int64_t tower) const { return towers_[tower].params; }
    std::int64_t end_of_trained(std::int64_t tower) const {
        return towers_[tower].params + trained_parameters(towers_[tower].tower);
    }

    // One client's.
    Tower tower(std::int64_t t, const Network& network, std::int64_t client) const {
        Tower one = towers_[t].tower;
        one.params = network.params + client * network.stride + towers_[t].params;
        return one;
    }
    Rows rows(std::int64_t t, const Batch& batch, std::int64_t client) const {
        const Place& at = towers_[t];
        const std::int64_t before = client * batch.rows;
        Rows rows{batch.x + before * ins_ + at.ins, ins_, nullptr, outs_, nullptr, batch.rows};
        if (batch.out) rows.out = batch.out + before * outs_ + at.outs;
        if (batch.kept) rows.kept = batch.kept + before * kept_ + batch.rows * at.kept;
        return rows;
    }
    std::int64_t in(std::int64_t t, std::int64_t row) const { return row * ins_ + towers_[t].ins; }
    std::int64_t out(std::int64_t t, std::int64_t row) const {
        return row * outs_ + towers_[t].outs;
    }
    // The most floats that any needs.
    template <class Floats>
    std::int64_t most(Floats floats) const {
        std::int64_t found = 0;
        for (const Place& at : towers_) found = std::max(found, floats(at.tower));
        return found;
    }

  private:
    struct Place {
        Tower tower;
        std::int64_t ins, outs, kept, params;
    };
    std::vector<Place> towers_;
    std::int64_t ins_ = 0, outs_ = 0, kept_ = 0, params_ = 0;
};

// Threads with working memory of their own.
class Workers {
  public:
    Workers(std::int64_t tasks, std::int64_t multiplications, int threads, std::int64_t floats)
        : team_(static_cast<int>(std::clamp<std::int64_t>(
              std::min<std::int64_t>(threads, multiplications / kThreadGrain), 1, tasks))) {
        for (int thread = 0; thread < team_.size(); ++thread) scratch_.emplace_back(floats);
    }
    int size() const { return team_.size(); }
    // Calls body(task, scratch) once for each task in [0, tasks).
    template <class Body>
    void each(std::int64_t tasks, Body body) {
        team_.each(tasks,
                   [&](std::int64_t task, int thread) { body(task, scratch_[thread].data()); });
    }

  private:
    Team team_;
    std::vector<Scratch> scratch_;
};

}  // namespace

void forward(const Network& network, const Batch& batch, int threads, Isa isa) {
    if (batch.clients == 0 || batch.rows == 0) return;
    const Kernels& kernels = kMlpKernels[isa];
    const Towers towers(network);
    const std::int64_t chunks = ceil_div(batch.rows, kChunkRows);
    const std::int64_t tasks = batch.clients * towers.size() * chunks;
    Workers workers(tasks, batch.clients * batch.rows * towers.params(), threads,
                    towers.most([&](const Tower& tower) {
                        return kernels.forward_scratch(tower, batch.kept != nullptr);
                    }));
    workers.each(tasks, [&](std::int64_t task, float* scratch) {
        const std::int64_t chunk = task % chunks, t = task / chunks % towers.size();
        const std::int64_t client = task / chunks / towers.size();
        kernels.forward(towers.tower(t, network, client), towers.rows(t, batch, client),
                        batch.rows * chunk / chunks, batch.rows * (chunk + 1) / chunks, scratch);
    });
}

void backward(const Network& network, const Batch& batch, const float* to_out, float* to_x,
              float* to_params, int threads, Isa isa) {
    const Towers towers(network);
    const std::int64_t size = towers.params();
    if (batch.rows == 0 && to_params) std::fill_n(to_params, batch.clients * size, 0.0f);
    if (batch.clients == 0 || batch.rows == 0 || !(to_x || to_params)) return;
    const Kernels& kernels = kMlpKernels[isa];
    const std::int64_t chunks = to_params
                                    ? std::min(ceil_div(batch.rows, kGradientRows), kMostGradients)
                                    : ceil_div(batch.rows, kChunkRows);
    const std::int64_t tasks = batch.clients * towers.size() * chunks;
    Workers workers(tasks, 2 * batch.clients * batch.rows * size, threads,
                    towers.most(kernels.backward_scratch));

    // Where chunks have gradients of their own, as many clients at a time as keep the threads busy.
    const bool apart = to_params && chunks > 1;
    const std::int64_t most = apart ? workers.size() : batch.clients;
    const Scratch parts(apart ? most * (chunks - 1) * size : 0);
    const auto gradient = [&](std::int64_t first, std::int64_t client, std::int64_t chunk) {
        if (!to_params) return static_cast<float*>(nullptr);
        if (chunk == 0) return to_params + client * size;
        return parts.data() + ((client - first) * (chunks - 1) + chunk - 1) * size;
    };
    for (std::int64_t first = 0; first < batch.clients; first += most) {
        const std::int64_t clients = std::min(most, batch.clients - first);
        workers.each(clients * towers.size() * chunks, [&](std::int64_t task, float* scratch) {
            const std::int64_t chunk = task % chunks, t = task / chunks % towers.size();
            const std::int64_t client = first + task / chunks / towers.size();
            float* const params = gradient(first, client, chunk);
            const Gradients to{to_out + towers.out(t, client * batch.rows),
                               to_x ? to_x + towers.in(t, client * batch.rows) : nullptr,
                               params ? params + towers.begin_of_params(t) : nullptr};
            kernels.backward(towers.tower(t, network, client), towers.rows(t, batch, client), to,
                             batch.rows * chunk / chunks, batch.rows * (chunk + 1) / chunks,
                             scratch);
        });
        if (!apart) continue;
        workers.each(clients, [&](std::int64_t client, float*) {
            float* const total = gradient(first, first + client, 0);
            for (std::int64_t chunk = 1; chunk < chunks; ++chunk) {
                const float* part = gradient(first, first + client, chunk);
                for (std::int64_t t = 0; t < towers.size(); ++t) {
                    const std::int64_t end = towers.end_of_trained(t);
                    for (std::int64_t i = towers.begin_of_params(t); i < end; ++i)
                        total[i] += part[i];
                }
            }
        });
    }
}

}  // namespace fedsyn::mlp
