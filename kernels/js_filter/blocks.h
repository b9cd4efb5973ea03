// What cpu.cpp computes block by block, once per instruction set; driver.cpp puts it together.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"

namespace fedsyn::js_filter {

// The prototypes of a client that exist.
struct Client {
    const float* x;             // [count, width]
    const float* y;             // [count, width]
    const std::int64_t* index;  // [count] among all of the client's, or null: 0, 1, 2, ...
    std::int64_t count;
    std::int64_t number;
};

struct Block {
    const float* x;  // [rows, width]
    const float* y;
    float* divergence;
    std::int64_t* client;  // or null
    std::int64_t* assignment;
    std::int64_t rows;
};

// What every instruction set has.
struct Kernels {
    std::int64_t (*scratch)(std::int64_t rows, std::int64_t clients, std::int64_t most_prototypes,
                            std::int64_t width);  // floats
    void (*block)(const Client* clients, std::int64_t count, std::int64_t width, float scale,
                  const Block& block, float* scratch);
};

}  // namespace fedsyn::js_filter

FEDSYN_KERNELS(js_filter::Kernels, kJsFilterKernels)
