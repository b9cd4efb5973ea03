// What cpu.cpp computes block by block, once per instruction set; driver.cpp puts it together.
#pragma once

#include <cstdint>

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

}  // namespace fedsyn::js_filter

// What cpu.cpp defines in the namespace of every instruction set it is compiled for.
#define FEDSYN_JS_FILTER_BLOCKS(isa)                                                               \
    namespace fedsyn::isa {                                                                        \
    std::int64_t js_filter_scratch(std::int64_t rows, std::int64_t clients, std::int64_t count,    \
                                   std::int64_t width);                                            \
    void js_filter_block(const js_filter::Client* clients, std::int64_t count, std::int64_t width, \
                         float scale, const js_filter::Block& block, float* scratch);              \
    }
