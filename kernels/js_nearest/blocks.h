// What cpu.cpp computes block by block, once per instruction set; driver.cpp puts it together.
#pragma once

#include <cstdint>

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

}  // namespace fedsyn::js_nearest

// What cpu.cpp defines in the namespace of every instruction set it is compiled for.
#define FEDSYN_JS_NEAREST_BLOCKS(isa)                                                          \
    namespace fedsyn::isa {                                                                    \
    std::int64_t js_nearest_packed(std::int64_t clients, std::int64_t k);                      \
    void js_nearest_pack(const float* q, std::int64_t clients, std::int64_t k, float* scratch, \
                         float* packed, float* half_sum, float* entropy);                      \
    std::int64_t js_nearest_scratch(const js_nearest::Clients& clients, std::int64_t rows);    \
    void js_nearest_block(const js_nearest::Clients& clients, const js_nearest::Block& block,  \
                          float* scratch);                                                     \
    }
