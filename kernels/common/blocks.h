// Blocks of rows that a cache holds, shared out to threads with working memory of their own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"

namespace fedsyn {

// As many rows as fill three quarters of a 1 MiB cache, in whole panels of every instruction set.
inline std::int64_t block_rows(std::int64_t rows, std::int64_t floats_per_row) {
    constexpr std::int64_t kFloats = 3 << 16, kPanel = 32, kMost = 4096;
    const std::int64_t fit = kFloats / floats_per_row / kPanel * kPanel;
    return std::min(std::clamp(fit, kPanel, kMost), rows);
}

// Calls body(first row, number of rows, scratch) for all blocks of [0, rows), rows > 0.
template <class Body>
void each_block(std::int64_t rows, std::int64_t rows_per_block, std::int64_t elements_per_row,
                int threads, std::int64_t scratch_floats, Body body) {
    const std::int64_t blocks = (rows + rows_per_block - 1) / rows_per_block;
    const std::int64_t worthwhile = rows * elements_per_row / kGrain;
    Team team(static_cast<int>(
        std::clamp<std::int64_t>(std::min<std::int64_t>(threads, worthwhile), 1, blocks)));
    std::vector<Scratch> scratch;
    for (int thread = 0; thread < team.size(); ++thread) scratch.emplace_back(scratch_floats);
    team.each(blocks, [&](std::int64_t block, int thread) {
        const std::int64_t first = block * rows_per_block;
        body(first, std::min(rows_per_block, rows - first), scratch[thread].data());
    });
}

}  // namespace fedsyn
