// Shares the groups of rows out to threads and adds their results up.
#include <algorithm>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/prototype_nce/cpu.h"

namespace fedsyn::prototype_nce {
namespace {

// A group is large enough that its partial gradient of the prototypes costs nothing beside its
// products, and a client has few enough that those partial gradients take little memory.
constexpr std::int64_t kLeastRows = 256;
constexpr std::int64_t kMostGroups = 16;

constexpr std::int64_t kProductsPerElement = 16;  // as fast as one element of parallel_rows

}  // namespace

void forward(const Arguments& a, int threads, Isa isa) {
    const Kernels& kernels = kPrototypeNceKernels[isa];
    const std::int64_t rows = std::max(kLeastRows, (a.rows + kMostGroups - 1) / kMostGroups);
    const std::int64_t count = std::max<std::int64_t>(1, (a.rows + rows - 1) / rows);
    const std::int64_t all = a.clients * count;
    const std::int64_t size = a.count * a.width;
    std::vector<double> loss(all), to_scale(all);
    const bool partial = a.to_prototypes != nullptr && count > 1;
    const Scratch to_prototypes(partial ? all * size : 0);
    const Groups groups{rows, count, loss.data(), to_scale.data(),
                        partial ? to_prototypes.data() : a.to_prototypes};

    const std::int64_t products = std::min(rows, a.rows) * size * 3;
    parallel_rows(all, products / kProductsPerElement, threads,
                  [&](std::int64_t begin, std::int64_t end) {
                      const Scratch scratch(kernels.scratch(a.count, a.width));
                      kernels.groups(a, groups, begin, end, scratch.data());
                  });

    for (std::int64_t c = 0; c < a.clients; ++c) {
        double sum = 0, scale_sum = 0;
        for (std::int64_t group = c * count; group < (c + 1) * count; ++group) {
            sum += loss[group];
            scale_sum += to_scale[group];
        }
        a.loss[c] = static_cast<float>(sum);
        if (a.to_scale != nullptr) a.to_scale[c] = static_cast<float>(scale_sum);
    }
    if (!partial) return;
    parallel_rows(a.clients * a.count, count * a.width, threads,
                  [&](std::int64_t begin, std::int64_t end) {
                      for (std::int64_t at = begin; at < end; ++at) {
                          const std::int64_t c = at / a.count, k = at % a.count;
                          float* out = a.to_prototypes + at * a.width;
                          const float* from = to_prototypes.data() + c * count * size + k * a.width;
                          std::copy_n(from, a.width, out);
                          for (std::int64_t group = 1; group < count; ++group) {
                              from += size;
                              for (std::int64_t i = 0; i < a.width; ++i) out[i] += from[i];
                          }
                      }
                  });
}

}  // namespace fedsyn::prototype_nce
