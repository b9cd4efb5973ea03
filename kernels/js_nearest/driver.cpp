// Chooses the instruction set and shares blocks of rows out to threads.
#include <vector>

#include "kernels/common/blocks.h"
#include "kernels/js_nearest/blocks.h"
#include "kernels/js_nearest/cpu.h"

FEDSYN_JS_NEAREST_BLOCKS(baseline)
#ifdef FEDSYN_X86
FEDSYN_JS_NEAREST_BLOCKS(avx2)
FEDSYN_JS_NEAREST_BLOCKS(avx512)
#endif

namespace fedsyn::js_nearest {

void nearest(const Problem& problem, float* divergence, std::int64_t* client, int threads,
             Isa isa) {
    auto* packed_size = &baseline::js_nearest_packed;
    auto* pack = &baseline::js_nearest_pack;
    auto* scratch_size = &baseline::js_nearest_scratch;
    auto* kernel = &baseline::js_nearest_block;
#ifdef FEDSYN_X86
    if (isa == Isa::avx2) {
        packed_size = &avx2::js_nearest_packed;
        pack = &avx2::js_nearest_pack;
        scratch_size = &avx2::js_nearest_scratch;
        kernel = &avx2::js_nearest_block;
    }
    if (isa == Isa::avx512) {
        packed_size = &avx512::js_nearest_packed;
        pack = &avx512::js_nearest_pack;
        scratch_size = &avx512::js_nearest_scratch;
        kernel = &avx512::js_nearest_block;
    }
#endif
    const std::int64_t count = problem.clients;
    const std::int64_t k = problem.k;
    const Scratch packed(packed_size(count, k));
    std::vector<float> half_sum(count), entropy(count);
    {
        const Scratch roots(count * k);
        pack(problem.q, count, k, roots.data(), packed.data(), half_sum.data(), entropy.data());
    }
    const Clients clients{problem.q, packed.data(), half_sum.data(), entropy.data(), count, k};
    const std::int64_t at_once = block_rows(problem.rows, k + count);
    each_block(problem.rows, at_once, count * k, threads, scratch_size(clients, at_once),
               [&](std::int64_t first, std::int64_t rows, float* scratch) {
                   kernel(clients,
                          {problem.p + first * k, divergence + first, client + first, rows},
                          scratch);
               });
}

}  // namespace fedsyn::js_nearest
