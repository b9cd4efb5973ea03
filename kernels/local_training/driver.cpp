// Takes each client through its steps; clients are shared out to threads.
#include <algorithm>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/info_nce/cpu.h"
#include "kernels/local_training/cpu.h"

namespace fedsyn::local_training {
namespace {

Update update_of(Rule rule, Isa isa) {
    const Kernels& kernels = kLocalTrainingKernels[isa];
    return rule == Rule::adam ? kernels.adam : rule == Rule::sgd ? kernels.sgd : kernels.rmsprop;
}

// Parameters that lie side by side.
struct Span {
    std::int64_t begin, size;
};

struct Sizes {
    std::int64_t in = 0, out = 0, kept = 0, params = 0;
    std::vector<Span> trained;
};

Sizes sizes_of(const mlp::Network& network) {
    Sizes sizes;
    const std::int64_t* widths = network.widths;
    for (std::int64_t t = 0; t < network.towers; ++t) {
        const std::int64_t layers = network.lengths[t] - 1;
        const mlp::Tower tower{layers, widths, nullptr, network.slope, network.head, network.skip};
        sizes.trained.push_back({sizes.params, mlp::trained_parameters(tower)});
        sizes.in += widths[0];
        sizes.out += widths[layers];
        sizes.kept += mlp::kept_width(tower);
        sizes.params += mlp::parameters(tower);
        widths += layers + 1;
    }
    if (network.skip != mlp::Skip::frozen) sizes.trained = {{0, sizes.params}};
    return sizes;
}

// Working memory of one thread.
class Trainer {
  public:
    Trainer(const mlp::Network& network, const Plan& plan, const Optimizer& optimizer, Isa isa)
        : network_(network),
          plan_(plan),
          optimizer_(optimizer),
          isa_(isa),
          sizes_(sizes_of(network)),
          x_(plan.batch * sizes_.in),
          out_(plan.batch * sizes_.out),
          to_out_(plan.batch * sizes_.out),
          kept_(plan.batch * sizes_.kept),
          rows_(plan.batch * sizes_.out),
          to_rows_(plan.batch * sizes_.out),
          lse_(2 * plan.batch),
          gradient_(sizes_.params),
          first_(optimizer.rule == Rule::adam || optimizer.momentum != 0 ? sizes_.params : 0),
          second_(optimizer.rule != Rule::sgd ? sizes_.params : 0) {}

    // One client, all steps.
    void train(std::int64_t client, const float* features, float scale, float* params,
               float* loss) {
        std::copy_n(network_.params + client * network_.stride, sizes_.params, params);
        const bool first = optimizer_.rule == Rule::adam ||
                           (optimizer_.rule == Rule::sgd && optimizer_.momentum != 0);
        const Moments moments{first ? first_.data() : nullptr,
                              optimizer_.rule == Rule::sgd ? nullptr : second_.data()};
        if (moments.first) std::fill_n(moments.first, sizes_.params, 0.0f);
        if (moments.second) std::fill_n(moments.second, sizes_.params, 0.0f);
        const Update update = update_of(optimizer_.rule, isa_);
        mlp::Network mine = network_;
        mine.params = params;
        double total = 0;
        std::int64_t steps = 0;
        for (std::int64_t s = 0; s < plan_.steps; ++s) {
            const std::int64_t at = s * plan_.clients + client;
            if (plan_.sizes[at] == 0) continue;
            total += differentiate(mine, features, plan_.index + at * plan_.batch, plan_.sizes[at],
                                   scale);
            ++steps;
            for (const auto [begin, size] : sizes_.trained) {
                const Moments own{moments.first ? moments.first + begin : nullptr,
                                  moments.second ? moments.second + begin : nullptr};
                update(optimizer_, steps, size, gradient_.data() + begin, params + begin, own);
            }
        }
        *loss = steps ? static_cast<float>(total / static_cast<double>(steps)) : 0.0f;
    }

  private:
    // Puts the gradient of one batch into gradient_; returns its loss.
    float differentiate(const mlp::Network& network, const float* features,
                        const std::int64_t* index, std::int64_t rows, float scale) {
        const std::int64_t width = sizes_.in, half = sizes_.out / 2;
        for (std::int64_t i = 0; i < rows; ++i) {
            std::copy_n(features + index[i] * width, width, x_.data() + i * width);
        }
        const mlp::Batch batch{1, rows, x_.data(), out_.data(), kept_.data()};
        mlp::forward(network, batch, 1, isa_);
        // InfoNCE takes the two embeddings apart.
        float* const u = rows_.data();
        float* const v = u + rows * half;
        for (std::int64_t i = 0; i < rows; ++i) {
            std::copy_n(out_.data() + 2 * i * half, half, u + i * half);
            std::copy_n(out_.data() + (2 * i + 1) * half, half, v + i * half);
        }
        const info_nce::Problem<float> problem{u, v, &scale, nullptr, 1, rows, rows, half, 0};
        float loss = 0, to_scale = 0;
        const float one = 1;
        float* const columns = lse_.data() + rows;
        info_nce::forward(problem, lse_.data(), columns, &loss, 1, isa_);
        float* const du = to_rows_.data();
        float* const dv = du + rows * half;
        info_nce::backward(problem, &one, lse_.data(), columns, du, dv, &to_scale, 1, isa_);
        for (std::int64_t i = 0; i < rows; ++i) {
            std::copy_n(du + i * half, half, to_out_.data() + 2 * i * half);
            std::copy_n(dv + i * half, half, to_out_.data() + (2 * i + 1) * half);
        }
        mlp::backward(network, batch, to_out_.data(), nullptr, gradient_.data(), 1, isa_);
        return loss;
    }

    const mlp::Network& network_;
    const Plan& plan_;
    const Optimizer& optimizer_;
    Isa isa_;
    Sizes sizes_;
    Scratch x_, out_, to_out_, kept_, rows_, to_rows_, lse_, gradient_, first_, second_;
};

}  // namespace

void train(const mlp::Network& network, const float* features, const Plan& plan, float scale,
           const Optimizer& optimizer, float* trained, float* loss, int threads, Isa isa) {
    if (plan.clients == 0) return;
    Team team(static_cast<int>(std::min<std::int64_t>(threads, plan.clients)));
    std::vector<Trainer> trainers;
    trainers.reserve(team.size());
    for (int thread = 0; thread < team.size(); ++thread) {
        trainers.emplace_back(network, plan, optimizer, isa);
    }
    const std::int64_t size = sizes_of(network).params;
    team.each(plan.clients, [&](std::int64_t client, int thread) {
        trainers[thread].train(client, features, scale, trained + client * size, loss + client);
    });
}

}  // namespace fedsyn::local_training
