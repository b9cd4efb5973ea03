// Shares blocks of rows out to threads.
#include <vector>

#include "kernels/common/blocks.h"
#include "kernels/js_nearest/blocks.h"
#include "kernels/js_nearest/cpu.h"

namespace fedsyn::js_nearest {

void nearest(const Problem& problem, float* divergence, std::int64_t* client, int threads,
             Isa isa) {
    const Kernels& kernels = kJsNearestKernels[isa];
    const std::int64_t count = problem.clients;
    const std::int64_t k = problem.k;
    const Scratch packed(kernels.packed(count, k));
    std::vector<float> half_sum(count), entropy(count);
    {
        const Scratch roots(count * k);
        kernels.pack(problem.q, count, k, roots.data(), packed.data(), half_sum.data(),
                     entropy.data());
    }
    const Clients clients{problem.q, packed.data(), half_sum.data(), entropy.data(), count, k};
    const std::int64_t at_once = block_rows(problem.rows, k + count);
    each_block(problem.rows, at_once, count * k, threads, kernels.scratch(clients, at_once),
               [&](std::int64_t first, std::int64_t rows, float* scratch) {
                   kernels.block(clients,
                                 {problem.p + first * k, divergence + first, client + first, rows},
                                 scratch);
               });
}

}  // namespace fedsyn::js_nearest
