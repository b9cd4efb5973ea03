// What cpu.cpp computes block by block, once per instruction set; driver.cpp puts it together.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"

namespace fedsyn::js_nearest {

struct Clients {
    const float* q;         // [count, k]
    const float* packed;    // pack_rows of their square roots
    const float* half_sum;  // [count]
    const float* entropy;   // [count]
    std::int64_t count;
    std::int64_t k;
};

struct Block {
    const float* p;  // [rows, k]
    float* divergence;
    std::int64_t* client;
    std::int64_t rows;
};

// What every instruction set has; sizes are in floats.
struct Kernels {
    std::int64_t (*packed)(std::int64_t clients, std::int64_t k);
    // Fills the members of Clients; scratch [clients, k].
    void (*pack)(const float* q, std::int64_t clients, std::int64_t k, float* scratch,
                 float* packed, float* half_sum, float* entropy);
    std::int64_t (*scratch)(const Clients& clients, std::int64_t rows);
    void (*block)(const Clients& clients, const Block& block, float* scratch);
};

}  // namespace fedsyn::js_nearest

FEDSYN_KERNELS(js_nearest::Kernels, kJsNearestKernels)
