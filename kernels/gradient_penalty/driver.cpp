// Shares clients, and chunks of long batches, out to threads and adds their results up.
#include <algorithm>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/gradient_penalty/cpu.h"

namespace fedsyn::gradient_penalty {
namespace {

// A long batch is cut into chunks whose gradients are added up in order; how it is cut depends on
// its length alone, so that threads do not change the result.
constexpr std::int64_t kChunkRows = 1024;
constexpr std::int64_t kMostChunks = 8;  // each has a gradient of its own

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

std::int64_t parameters(const Critic& critic, bool biases) {
    std::int64_t count = 0;
    for (std::int64_t l = 0; l < critic.layers; ++l) {
        count += (critic.widths[l] + (biases ? 1 : 0)) * critic.widths[l + 1];
    }
    return count;
}

}  // namespace

void critic_step(const Critic& critic, const Batch& batch, float weight, float* loss,
                 float* penalty, float* gradient, int threads, Isa isa) {
    const Kernels& kernels = kGradientPenaltyKernels[isa];
    const std::int64_t chunks = std::min(ceil_div(batch.rows, kChunkRows), kMostChunks);
    const std::int64_t tasks = batch.clients * chunks;
    const std::int64_t size = parameters(critic, batch.real != nullptr);
    const Scratch parts(gradient && chunks > 1 ? tasks * size : 0);
    float* const partial = gradient && chunks > 1 ? parts.data() : gradient;
    std::vector<double> sums(2 * tasks);

    const std::int64_t work = ceil_div(batch.rows, chunks) * size / 16;
    parallel_rows(tasks, work, threads, [&](std::int64_t begin, std::int64_t end) {
        const Scratch scratch(kernels.scratch(critic, batch));
        for (std::int64_t task = begin; task < end; ++task) {
            const std::int64_t chunk = task % chunks;
            kernels.rows(critic, batch, task / chunks, batch.rows * chunk / chunks,
                         batch.rows * (chunk + 1) / chunks, weight, sums.data() + 2 * task,
                         partial ? partial + task * size : nullptr, scratch.data());
        }
    });
    parallel_rows(batch.clients, chunks * size, threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t client = begin; client < end; ++client) {
            double scores = 0, penalties = 0;
            for (std::int64_t chunk = 0; chunk < chunks; ++chunk) {
                const std::int64_t task = client * chunks + chunk;
                scores += sums[2 * task];
                penalties += sums[2 * task + 1];
                if (partial == gradient) continue;
                const float* part = partial + task * size;
                float* to = gradient + client * size;
                for (std::int64_t i = 0; i < size; ++i) to[i] = chunk ? to[i] + part[i] : part[i];
            }
            const double count = static_cast<double>(batch.rows);
            penalty[client] = static_cast<float>(penalties / count);
            loss[client] = static_cast<float>((scores + weight * penalties) / count);
        }
    });
}

}  // namespace fedsyn::gradient_penalty
