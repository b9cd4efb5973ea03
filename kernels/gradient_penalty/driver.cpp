// Chooses the instruction set and shares clients, and chunks of long batches, out to threads.
#include <algorithm>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/gradient_penalty/cpu.h"

// What cpu.cpp defines in the namespace of every instruction set it is compiled for.
#define FEDSYN_DECLARE(isa)                                                                       \
    namespace fedsyn::isa {                                                                       \
    std::int64_t critic_scratch(const gradient_penalty::Critic&, const gradient_penalty::Batch&); \
    void critic_rows(const gradient_penalty::Critic&, const gradient_penalty::Batch&,             \
                     std::int64_t, std::int64_t, std::int64_t, float, double*, float*, float*);   \
    }
FEDSYN_DECLARE(baseline)
#ifdef FEDSYN_X86
FEDSYN_DECLARE(avx2)
FEDSYN_DECLARE(avx512)
#endif
#undef FEDSYN_DECLARE

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
    auto* rows_kernel = &baseline::critic_rows;
    auto* scratch_size = &baseline::critic_scratch;
#ifdef FEDSYN_X86
    if (isa == Isa::avx2) {
        rows_kernel = &avx2::critic_rows;
        scratch_size = &avx2::critic_scratch;
    }
    if (isa == Isa::avx512) {
        rows_kernel = &avx512::critic_rows;
        scratch_size = &avx512::critic_scratch;
    }
#endif
    const std::int64_t chunks = std::min(ceil_div(batch.rows, kChunkRows), kMostChunks);
    const std::int64_t tasks = batch.clients * chunks;
    const std::int64_t size = parameters(critic, batch.real != nullptr);
    const Scratch parts(gradient && chunks > 1 ? tasks * size : 0);
    float* const partial = gradient && chunks > 1 ? parts.data() : gradient;
    std::vector<double> sums(2 * tasks);

    const std::int64_t work = ceil_div(batch.rows, chunks) * size / 16;
    parallel_rows(tasks, work, threads, [&](std::int64_t begin, std::int64_t end) {
        const Scratch scratch(scratch_size(critic, batch));
        for (std::int64_t task = begin; task < end; ++task) {
            const std::int64_t chunk = task % chunks;
            rows_kernel(critic, batch, task / chunks, batch.rows * chunk / chunks,
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
