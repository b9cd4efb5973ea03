// Compiled once per instruction set: see kernels/common/simd.h.
#include "kernels/prototype_nce/cpu.h"

#include <cstdint>

#include "kernels/common/gemm.h"
#include "kernels/common/simd.h"

namespace fedsyn::FEDSYN_ISA {
namespace {

using prototype_nce::Arguments;
using prototype_nce::Groups;

// Rows whose logits are computed together, a multiple of every tile; the logits of one row lie
// `stride` floats apart from the next.
struct Block {
    static constexpr std::int64_t kMost = 192;
    std::int64_t rows, stride;
};

Block block_of(std::int64_t count) {
    constexpr std::int64_t kLine = 16;         // floats of a cache line
    constexpr std::int64_t kCached = 1 << 16;  // logits that leave the second cache room
    constexpr std::int64_t kTile = 12;
    const std::int64_t stride = (count + kLine - 1) / kLine * kLine;
    const std::int64_t rows = kCached / stride / kTile * kTile;
    return {rows < 2 * kTile ? 2 * kTile : rows > Block::kMost ? Block::kMost : rows, stride};
}

void copy(const float* from, float* to, std::int64_t count) {
    __builtin_memmove(to, from, static_cast<std::size_t>(count) * sizeof(float));
}

void clear(float* at, std::int64_t count) {
    for (std::int64_t i = 0; i < count; ++i) at[i] = 0;
}

// Working memory of one thread. Absent prototypes are left out: `place` tells where the others are.
struct Room {
    Room(float* memory, std::int64_t count, std::int64_t width, Block block)
        : packed(memory),
          present(packed + packed_size(count, width)),
          logits(present + count * width),
          rows(logits + block.rows * block.stride),
          place(reinterpret_cast<std::int32_t*>(rows + block.rows * width)) {}

    static std::int64_t size(std::int64_t count, std::int64_t width, Block block) {
        return packed_size(count, width) + count * width + block.rows * (block.stride + width) +
               count;
    }

    float* packed;
    float* present;
    float* logits;
    float* rows;
    std::int32_t* place;
};

// What the groups of one client share.
struct Client {
    std::int64_t count;   // prototypes that exist
    const float* plain;   // those, row after row
    Right packed;         // and as columns
    float scale, weight;  // s, and 1 / rows that take part
};

// Where the prototype of a row is among those that exist; negative if the row takes no part.
std::int64_t place_of(const Arguments& a, const Room& room, std::int64_t target) {
    return a.valid == nullptr || target < 0 ? target : room.place[target];
}

Client prepare(const Arguments& a, std::int64_t c, const Room& room) {
    Client client{a.count, a.prototypes + c * a.count * a.width, {}, 0, 0};
    if (a.valid != nullptr) {
        client.count = 0;
        for (std::int64_t k = 0; k < a.count; ++k) {
            const bool exists = a.valid[c * a.count + k] != 0;
            room.place[k] = exists ? static_cast<std::int32_t>(client.count) : -1;
            if (!exists) continue;
            copy(client.plain + k * a.width, room.present + client.count * a.width, a.width);
            ++client.count;
        }
        client.plain = room.present;
    }
    client.packed = pack_rows(client.plain, a.width, client.count, a.width, room.packed);
    std::int64_t kept = 0;
    for (std::int64_t i = 0; i < a.rows; ++i) {
        kept += place_of(a, room, a.target[c * a.rows + i]) >= 0;
    }
    client.scale = a.scales == nullptr ? a.scale : a.scales[c];
    client.weight = kept > 0 ? static_cast<float>(1.0 / static_cast<double>(kept)) : 0.0f;
    return client;
}

// Puts e^{s d - largest} in the place of the similarities d of one row.
struct Softmax {
    float largest;   // of s d
    float sum;       // of the exponentials
    float weighted;  // sum of exponential times d
};

Softmax softmax(float* row, std::int64_t count, float scale) {
    constexpr int lanes = kLanes<float>;
    const Ints lane = lane_numbers();
    const std::int64_t whole = count - count % lanes;
    const int rest = static_cast<int>(count - whole);
    const Floats lowest = broadcast(-__builtin_inff());

    Floats top = lowest;
    for (std::int64_t k = 0; k < whole; k += lanes) top = at_least(top, scale * load(row + k));
    if (rest > 0) {
        top = at_least(top, lane < rest ? scale * load(row + whole, rest) : lowest);
    }
    const float largest_logit = largest(top);

    Floats sums{}, weighted{};
    for (std::int64_t k = 0; k < whole; k += lanes) {
        const Floats d = load(row + k);
        const Floats e = exp(scale * d - largest_logit);
        sums += e;
        weighted += e * d;
        store(row + k, e);
    }
    if (rest > 0) {
        const Floats d = load(row + whole, rest);
        const Floats e = lane < rest ? exp(scale * d - largest_logit) : Floats{};
        sums += e;
        weighted += e * d;
        store(row + whole, e, rest);
    }
    return {largest_logit, sum(sums), sum(weighted)};
}

void multiply(float* row, std::int64_t count, float factor) {
    constexpr int lanes = kLanes<float>;
    for (std::int64_t k = 0; k < count; k += lanes) {
        const int some = static_cast<int>(count - k < lanes ? count - k : lanes);
        store(row + k, factor * load(row + k, some), some);
    }
}

struct Sums {
    double loss, to_scale;
};

// Turns a block of similarities into s dS. Rows that take no part get zeros.
Sums differentiate(float* logits, std::int64_t stride, const std::int64_t* places,
                   std::int64_t rows, const Client& client) {
    constexpr int lanes = kLanes<float>;
    float above[Block::kMost];                 // largest logit - that of the target
    float sums[Block::kMost + kLanes<float>];  // whole vectors
    for (std::int64_t i = 0; i < rows; i += lanes) store(sums + i, broadcast(1.0f));
    double to_scale = 0;
    for (std::int64_t i = 0; i < rows; ++i) {
        float* row = logits + i * stride;
        if (places[i] < 0) {
            above[i] = 0;
            clear(row, client.count);
            continue;
        }
        const float similarity = row[places[i]];
        const Softmax s = softmax(row, client.count, client.scale);
        above[i] = s.largest - client.scale * similarity;
        sums[i] = s.sum;
        to_scale += s.weighted / s.sum - similarity;
        const float factor = client.scale * client.weight;
        multiply(row, client.count, factor / s.sum);
        row[places[i]] -= factor;
    }
    double loss = 0;
    for (std::int64_t i = 0; i < rows; i += lanes) store(sums + i, log(load(sums + i)));
    for (std::int64_t i = 0; i < rows; ++i) loss += above[i] + sums[i];
    return {loss, to_scale};
}

// Moves the gradients of the prototypes that exist to their places; the others' are zero.
void spread(const Arguments& a, const Room& room, float* gradients) {
    for (std::int64_t k = a.count - 1; k >= 0; --k) {  // backwards: none is overwritten unread
        float* to = gradients + k * a.width;
        if (room.place[k] < 0) {
            clear(to, a.width);
        } else {
            copy(gradients + room.place[k] * a.width, to, a.width);
        }
    }
}

// Rows [begin, end) of client c: their part of the loss and of the gradients.
Sums group(const Arguments& a, std::int64_t c, std::int64_t begin, std::int64_t end,
           const Client& client, const Room& room, Block block, float* to_prototypes) {
    Sums total{};
    bool started = false;
    for (std::int64_t first = begin; first < end; first += block.rows) {
        const std::int64_t rows = end - first < block.rows ? end - first : block.rows;
        const float* x = a.x + (c * a.rows + first) * a.width;
        float* to_x = a.to_x == nullptr ? nullptr : a.to_x + (c * a.rows + first) * a.width;
        std::int64_t places[Block::kMost];
        std::int64_t kept = 0;
        for (std::int64_t i = 0; i < rows; ++i) {
            places[i] = place_of(a, room, a.target[c * a.rows + first + i]);
            kept += places[i] >= 0;
        }
        if (kept == 0) {
            if (to_x != nullptr) clear(to_x, rows * a.width);
            continue;
        }
        if (kept < rows) {  // what is ignored may hold anything, and 0 times NaN is NaN
            for (std::int64_t i = 0; i < rows; ++i) {
                float* row = room.rows + i * a.width;
                if (places[i] < 0) {
                    clear(row, a.width);
                } else {
                    copy(x + i * a.width, row, a.width);
                }
            }
            x = room.rows;
        }
        gemm<false>(Left{x, a.width, 1}, client.packed, room.logits, block.stride, rows,
                    client.count, a.width);
        const Sums sums = differentiate(room.logits, block.stride, places, rows, client);
        total.loss += sums.loss;
        total.to_scale += sums.to_scale;
        if (to_x != nullptr) {
            gemm<false>(Left{room.logits, block.stride, 1}, Right{client.plain, a.width}, to_x,
                        a.width, rows, a.width, client.count);
        }
        if (to_prototypes != nullptr) {
            const Left transposed{room.logits, 1, block.stride};
            const Right right{x, a.width};
            if (started) {
                gemm<true>(transposed, right, to_prototypes, a.width, client.count, a.width, rows);
            } else {
                gemm<false>(transposed, right, to_prototypes, a.width, client.count, a.width, rows);
            }
            started = true;
        }
    }
    if (to_prototypes != nullptr) {
        if (!started) {
            clear(to_prototypes, a.count * a.width);
        } else if (a.valid != nullptr) {
            spread(a, room, to_prototypes);
        }
    }
    return {total.loss * client.weight, total.to_scale * client.weight};
}

std::int64_t scratch_size(std::int64_t count, std::int64_t width) {
    return Room::size(count, width, block_of(count));
}

void run_groups(const Arguments& a, const Groups& groups, std::int64_t begin, std::int64_t end,
                float* scratch) {
    const Block block = block_of(a.count);
    const Room room(scratch, a.count, a.width, block);
    Client client{};
    for (std::int64_t at = begin; at < end; ++at) {
        const std::int64_t c = at / groups.count;
        const std::int64_t first = at % groups.count * groups.rows;
        if (at == begin || first == 0) client = prepare(a, c, room);
        const std::int64_t last = first + groups.rows < a.rows ? first + groups.rows : a.rows;
        float* to_prototypes = groups.to_prototypes == nullptr
                                   ? nullptr
                                   : groups.to_prototypes + at * a.count * a.width;
        const Sums sums = group(a, c, first, last, client, room, block, to_prototypes);
        groups.loss[at] = sums.loss;
        groups.to_scale[at] = sums.to_scale;
    }
}

}  // namespace

extern constexpr prototype_nce::Kernels kPrototypeNceKernels{scratch_size, run_groups};

}  // namespace fedsyn::FEDSYN_ISA
