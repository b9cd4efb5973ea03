// Products of matrices, a tile of 64 x 64 by a block of 128 threads.
//
// A block walks along the depth in steps of 32: while it multiplies one pair of tiles in shared
// memory, the next pair is on its way to registers. float multiplies in float; bfloat16 on the
// tensor cores, where there are, and accumulates in float.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/common/launch.cuh"
#include "kernels/common/mma.cuh"

namespace fedsyn::product {

constexpr int kThreads = 128;
constexpr int kTile = 64;
constexpr int kDepth = 32;
constexpr int kMoved = kTile * kDepth / kThreads;  // elements of an operand's tile a thread moves
constexpr int kHeld = kTile * kTile / kThreads;    // elements of the product a thread holds

// 128 registers a thread of float: left to itself, ptxas keeps every address in one. The fragments
// of bfloat16 take more.
template <class T>
constexpr int kBlocksPerSm = std::is_same_v<T, float> ? 4 : 3;

enum class Axis { row, depth };

// One operand of a product, [rows, depth], from the first row of the tile on. Rows and depths that
// do not exist read as zero. Packs are aligned: with kPack > 1 every start of a pack that exists is
// a multiple of kPack elements, and the memory behind the last one is readable up to the next.
template <class E, int kPack, Axis kContiguous>
struct Matrix {
    const E* data;
    std::int64_t stride;  // between neighbours along the other axis
    std::int64_t rows, depth;
    // With Axis::row: a byte for each of the depth, 0 where it counts as zero, whatever it holds.
    const std::uint8_t* present = nullptr;
};

// An operand's tile in shared memory; the padding keeps rows apart in the banks.
template <class T>
struct Tile;

template <>
struct Tile<float> {
    alignas(16) float values[kDepth][kTile + 4];

    __device__ float& at(int row, int k) { return values[k][row]; }
};

template <>
struct Tile<__nv_bfloat16> {
    alignas(16) __nv_bfloat16 values[kTile][kDepth + 8];

    __device__ __nv_bfloat16& at(int row, int k) { return values[row][k]; }
    // Two neighbours along the depth.
    __device__ std::uint32_t pair(int row, int k) const {
        return *reinterpret_cast<const std::uint32_t*>(&values[row][k]);
    }
};

template <class T>
struct Tiles {
    Tile<T> a, b;
};

// The elements of the product that a thread holds, and where they stand in the tile.
template <class T>
struct Accumulator;

template <>
struct Accumulator<float> {
    static constexpr int kRows = 8, kColumns = 4;  // neighbours; a row's 16 threads are neighbours
    static constexpr int kLanes = kTile / kColumns;

    float at[kHeld] = {};

    __device__ static int row(int i) {
        return static_cast<int>(threadIdx.x) / kLanes * kRows + i / kColumns;
    }
    __device__ static int column(int i) {
        return static_cast<int>(threadIdx.x) % kLanes * kColumns + i % kColumns;
    }
};

template <>
struct Accumulator<__nv_bfloat16> {
    float at[kHeld] = {};  // a warp holds 16 rows, as eight products of 16 x 8

    __device__ static int row(int i) {
        return static_cast<int>(threadIdx.x) / 32 * 16 + static_cast<int>(threadIdx.x) % 32 / 4 +
               i % 4 / 2 * 8;
    }
    __device__ static int column(int i) {
        return i / 4 * 8 + static_cast<int>(threadIdx.x) % 4 * 2 + i % 2;
    }
};

// What a pair of elements adds to the product.
struct Dot {
    __device__ static float add(float sum, float a, float b) { return fmaf(a, b, sum); }
};
struct SquaredDistance {
    __device__ static float add(float sum, float a, float b) {
        const float d = a - b;
        return fmaf(d, d, sum);
    }
};

template <class Rule>
__device__ inline void accumulate(const Tiles<float>& tiles, Accumulator<float>& out) {
    using Row = Pack<float, 4>;
    const int row = Accumulator<float>::row(0);
    const int column = Accumulator<float>::column(0);
#pragma unroll 8
    for (int k = 0; k < kDepth; ++k) {
        const Row a[2] = {*reinterpret_cast<const Row*>(&tiles.a.values[k][row]),
                          *reinterpret_cast<const Row*>(&tiles.a.values[k][row + 4])};
        const Row b = *reinterpret_cast<const Row*>(&tiles.b.values[k][column]);
#pragma unroll
        for (int i = 0; i < kHeld; ++i) {
            out.at[i] = Rule::add(out.at[i], a[i / 16].at[i / 4 % 4], b.at[i % 4]);
        }
    }
}

template <class Rule>
__device__ inline void accumulate(const Tiles<__nv_bfloat16>& tiles,
                                  Accumulator<__nv_bfloat16>& out) {
    static_assert(std::is_same_v<Rule, Dot>);
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
    for (int k = 0; k < kDepth; ++k) {
#pragma unroll
        for (int i = 0; i < kHeld; ++i) {
            out.at[i] = Rule::add(out.at[i], __bfloat162float(tiles.a.values[out.row(i)][k]),
                                  __bfloat162float(tiles.b.values[out.column(i)][k]));
        }
    }
#else
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int row = static_cast<int>(threadIdx.x) / 32 * 16 + lane / 4;
    const int pair = lane % 4 * 2;
#pragma unroll 1  // else the fragments of both steps are held at once
    for (int k = 0; k < kDepth; k += 16) {
        const std::uint32_t a[4] = {tiles.a.pair(row, k + pair), tiles.a.pair(row + 8, k + pair),
                                    tiles.a.pair(row, k + pair + 8),
                                    tiles.a.pair(row + 8, k + pair + 8)};
#pragma unroll
        for (int i = 0; i < kTile / 8; ++i) {
            const std::uint32_t b[2] = {tiles.b.pair(8 * i + lane / 4, k + pair),
                                        tiles.b.pair(8 * i + lane / 4, k + pair + 8)};
            multiply_add_16x8x16(reinterpret_cast<float (&)[4]>(out.at[4 * i]), a, b);
        }
    }
#endif
}

struct Convert {
    template <class T, class E>
    __device__ static T to(E value) {
        if constexpr (std::is_same_v<T, E>) {
            return value;
        } else {
            return static_cast<T>(static_cast<float>(value));
        }
    }
};

// A thread's share of an operand's tile, on its way from global to shared memory: packs that are
// neighbours along the contiguous axis among threads, and kStep apart along the other in a thread.
template <class E, int kPack, Axis kContiguous>
class Share {
  public:
    __device__ explicit Share(const Matrix<E, kPack, kContiguous>& from)
        : next_(from.data + along() + other() * from.stride),
          step_(kStep * from.stride),
          rows_(static_cast<int>(from.rows < kTile ? from.rows : kTile)),
          present_(from.present) {}

    // Reads the next 32 of the depth, of which `left` are left.
    __device__ void read(std::int64_t left) {
        const int depth = static_cast<int>(left < kDepth ? left : kDepth);
        const int along_end = kContiguous == Axis::depth ? depth : rows_;
        const int other_end = kContiguous == Axis::depth ? rows_ : depth;
        const E* from = next_;
#pragma unroll
        for (int i = 0; i < kPacks; ++i, from += step_) {
            bool exists = along() < along_end && other() + i * kStep < other_end;
            if (kContiguous == Axis::row && present_ != nullptr) {
                exists = exists && present_[other() + i * kStep] != 0;
            }
            packs_[i] = exists ? *reinterpret_cast<const Pack<E, kPack>*>(from) : Pack<E, kPack>{};
        }
        next_ += kContiguous == Axis::depth ? kDepth : kDepth / kStep * step_;
        if (kContiguous == Axis::row && present_ != nullptr) present_ += kDepth;
    }

    template <class Map, class T>
    __device__ void write(Tile<T>& tile) const {
#pragma unroll
        for (int i = 0; i < kPacks; ++i) {
#pragma unroll
            for (int j = 0; j < kPack; ++j) {
                const int a = along() + j;
                const int o = other() + i * kStep;
                T& to = kContiguous == Axis::depth ? tile.at(o, a) : tile.at(a, o);
                to = Map::template to<T>(packs_[i].at[j]);
            }
        }
    }

  private:
    static constexpr int kAlong = kContiguous == Axis::depth ? kDepth : kTile;
    static constexpr int kPacks = kMoved / kPack;
    static constexpr int kStep = kThreads * kPack / kAlong;

    __device__ static int along() { return static_cast<int>(threadIdx.x) * kPack % kAlong; }
    __device__ static int other() { return static_cast<int>(threadIdx.x) * kPack / kAlong; }

    const E* next_;
    std::int64_t step_;
    int rows_;
    const std::uint8_t* present_;
    Pack<E, kPack> packs_[kPacks];
};

// out[i, j] = sum over k of Rule(a[i, k], b[j, k]), each element first through Map. All threads of
// the block take part; the sums run along k in one fixed order.
template <class Rule = Dot, class Map = Convert, class T, class E, int kPackA, Axis kAxisA, class F,
          int kPackB, Axis kAxisB>
__device__ inline Accumulator<T> multiply(Tiles<T>& tiles, const Matrix<E, kPackA, kAxisA>& a,
                                          const Matrix<F, kPackB, kAxisB>& b) {
    Accumulator<T> out;
    Share<E, kPackA, kAxisA> next_a(a);
    Share<F, kPackB, kAxisB> next_b(b);
    next_a.read(a.depth);
    next_b.read(a.depth);
    for (std::int64_t left = a.depth; left > 0;) {
        __syncthreads();  // the tiles before these have been read
        next_a.template write<Map>(tiles.a);
        next_b.template write<Map>(tiles.b);
        __syncthreads();
        left -= kDepth;
        next_a.read(left);
        next_b.read(left);
        accumulate<Rule>(tiles, out);
    }
    return out;
}

// Calls store(row, column, value) for every element of a tile that exists.
template <class T, class Store>
__device__ inline void for_each(const Accumulator<T>& tile, std::int64_t rows, std::int64_t columns,
                                Store store) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
        if (tile.row(i) < rows && tile.column(i) < columns) {
            store(tile.row(i), tile.column(i), tile.at[i]);
        }
    }
}

}  // namespace fedsyn::product
