// The contrast of embeddings against prototypes on the GPU, its gradients in the forward pass.
//
//   T = X P^T,  S = s T,  L = mean_i [lse_k S_ik - S_i,target]
//   G = softmax(S) - onehot(target)
//   dX = s/n G P,  dP = s/n G^T X,  ds = 1/n sum_ik G_ik T_ik      n rows that take part
//
// A row takes part where its target is a prototype that exists. What takes no part may hold
// anything, so it is left out of the products and not only multiplied by zero.
//
// The softmax runs along one axis only, so G is known as soon as a row of T is: three products and
// nothing is computed twice. T is stored, and G over it: a client's batch is small, so that it
// stays in the L2 cache, and every product has the blocks of all clients to fill the GPU. dP sums
// over the rows: where the tiles of dP are few, the rows are split between blocks, and the parts
// are added in a fixed order.
#include "kernels/prototype_nce/cuda.h"

#include <cstdint>

#include "kernels/common/product.cuh"
#include "kernels/common/warp.cuh"

namespace fedsyn::prototype_nce {
namespace {

using product::Axis;
using product::kTile;
using product::Matrix;

constexpr int kThreads = 256;             // of the kernels that are not products
constexpr int kBlocksPerSm = 4;           // 64 registers: left to itself, ptxas may spill at 32
constexpr std::int64_t kBlocks = 512;     // enough to fill a GPU
constexpr std::int64_t kLeastRows = 256;  // of a part: fewer are not worth their partial sums

// The inverse temperatures: each client's, or one for all.
struct Scale {
    const float* of_clients;
    float of_all;

    __device__ float operator[](std::int64_t client) const {
        return of_clients == nullptr ? of_all : of_clients[client];
    }
};

struct Shape {
    std::int64_t clients, rows, prototypes, width;

    // Between rows of T, so that their packs are aligned.
    __host__ __device__ std::int64_t pitch() const { return ceil_div(prototypes, 4) * 4; }
    std::int64_t tiles_of_dp() const {
        return clients * ceil_div(prototypes, kTile) * ceil_div(width, kTile);
    }
    std::int64_t rows_of_part() const {
        const std::int64_t parts = ceil_div(kBlocks, tiles_of_dp());
        const std::int64_t least = rows < kLeastRows ? rows : kLeastRows;
        const std::int64_t even = ceil_div(rows, parts);
        return even > least ? even : least;
    }
    // Depends on the shape alone, so results are the same on every GPU.
    std::int64_t parts() const { return rows == 0 ? 1 : ceil_div(rows, rows_of_part()); }
};

struct Workspace {
    float* t;        // [clients, rows, pitch]; G, once a row is known
    float* loss;     // [clients, rows]
    float* dscale;   // [clients, rows]
    float* weight;   // [clients], s/n
    float* partial;  // [parts, clients, prototypes, width], where there is more than one part
    std::uint8_t* takes_part;  // [clients, rows]
    std::int64_t bytes;

    Workspace(void* memory, const Shape& shape) {
        auto* next = static_cast<float*>(memory);
        bytes = 0;
        const auto take = [&](std::int64_t count) {
            float* taken = next;
            if (next != nullptr) next += count;
            bytes += count * static_cast<std::int64_t>(sizeof(float));
            return taken;
        };
        const std::int64_t rows = shape.clients * shape.rows;
        t = take(rows * shape.pitch());
        loss = take(rows);
        dscale = take(rows);
        weight = take(shape.clients);
        const std::int64_t parts = shape.parts();
        partial = take(parts > 1 ? parts * shape.clients * shape.prototypes * shape.width : 0);
        takes_part = reinterpret_cast<std::uint8_t*>(take(ceil_div(rows, sizeof(float))));
    }
};

// T, a tile a block.
template <class T, int kPack>
__global__ void __launch_bounds__(product::kThreads, product::kBlocksPerSm<T>)
    similarity_kernel(const T* __restrict__ x, const T* __restrict__ prototypes,
                      float* __restrict__ t, Shape shape) {
    __shared__ product::Tiles<T> tiles;
    const std::int64_t row_tiles = ceil_div(shape.rows, kTile);
    const std::int64_t column_tiles = ceil_div(shape.prototypes, kTile);
    const std::int64_t tasks = shape.clients * row_tiles * column_tiles;
    for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const std::int64_t column = task % column_tiles * kTile;
        const std::int64_t row = task / column_tiles % row_tiles * kTile;
        const std::int64_t client = task / column_tiles / row_tiles;
        const std::int64_t first_row = client * shape.rows + row;
        const std::int64_t first_column = client * shape.prototypes + column;
        const Matrix<T, kPack, Axis::depth> a{x + first_row * shape.width, shape.width,
                                              shape.rows - row, shape.width};
        const Matrix<T, kPack, Axis::depth> b{prototypes + first_column * shape.width, shape.width,
                                              shape.prototypes - column, shape.width};
        const auto tile = product::multiply(tiles, a, b);
        float* to = t + first_row * shape.pitch() + column;
        product::for_each(tile, shape.rows - row, shape.prototypes - column,
                          [&](int r, int k, float value) { to[r * shape.pitch() + k] = value; });
    }
}

// The loss of a row and G over its T, a warp a row.
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    rows_kernel(const std::int64_t* __restrict__ target, Scale scale,
                const std::uint8_t* __restrict__ valid, float* __restrict__ t,
                float* __restrict__ loss, float* __restrict__ dscale,
                std::uint8_t* __restrict__ takes_part, Shape shape) {
    constexpr int kWarps = kThreads / 32;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const std::int64_t rows = shape.clients * shape.rows;
    std::int64_t row = std::int64_t{blockIdx.x} * kWarps + threadIdx.x / 32;
    for (; row < rows; row += std::int64_t{gridDim.x} * kWarps) {
        const std::int64_t client = row / shape.rows;
        const std::uint8_t* flags = valid == nullptr ? nullptr : valid + client * shape.prototypes;
        const auto exists = [=](std::int64_t k) { return flags == nullptr || flags[k] != 0; };
        float* values = t + row * shape.pitch();
        const std::int64_t chosen = target[row];
        const bool counts = chosen >= 0 && chosen < shape.prototypes && exists(chosen);
        if (!counts) {
            for (std::int64_t k = lane; k < shape.pitch(); k += 32) values[k] = 0;
            if (lane == 0) {
                loss[row] = 0;
                dscale[row] = 0;
                takes_part[row] = 0;
            }
            continue;
        }
        const float to_bits = scale[client] * kLog2E;
        const float positive = to_bits * values[chosen];
        float greatest = positive;
        for (std::int64_t k = lane; k < shape.prototypes; k += 32) {
            if (exists(k)) greatest = fmaxf(greatest, to_bits * values[k]);
        }
        greatest = group_max<32>(greatest);
        float sum = 0;
        for (std::int64_t k = lane; k < shape.prototypes; k += 32) {
            if (exists(k)) sum += fast_exp2(to_bits * values[k] - greatest);
        }
        sum = group_sum<32>(sum);
        __syncwarp();  // the target's value has been read
        const float unit = 1 / sum;
        float to_scale = 0;
        for (std::int64_t k = lane; k < shape.pitch(); k += 32) {
            float g = 0;  // also of the padding
            if (k < shape.prototypes && exists(k)) {
                g = unit * fast_exp2(to_bits * values[k] - greatest) - (k == chosen ? 1.0f : 0.0f);
                to_scale = fmaf(g, values[k], to_scale);
            }
            values[k] = g;
        }
        to_scale = group_sum<32>(to_scale);
        if (lane == 0) {
            loss[row] = kLn2 * (fast_log2(sum) + (greatest - positive));
            dscale[row] = to_scale;
            takes_part[row] = 1;
        }
    }
}

// Means over a client's rows, a block a client.
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    clients_kernel(const std::uint8_t* __restrict__ takes_part, Scale scale,
                   const float* __restrict__ row_loss, const float* __restrict__ row_dscale,
                   float* __restrict__ loss, float* __restrict__ dscale, float* __restrict__ weight,
                   Shape shape) {
    for (std::int64_t client = blockIdx.x; client < shape.clients; client += gridDim.x) {
        const std::int64_t first = client * shape.rows;
        float of_loss = 0;
        float of_dscale = 0;
        float count = 0;  // a thread's share of the rows is below 2^24
        for (std::int64_t row = first + threadIdx.x; row < first + shape.rows; row += kThreads) {
            of_loss += row_loss[row];
            of_dscale += row_dscale[row];
            count += takes_part[row];
        }
        of_loss = block_sum<kThreads>(of_loss);
        of_dscale = block_sum<kThreads>(of_dscale);
        count = fmaxf(block_sum<kThreads>(count), 1.0f);
        if (threadIdx.x == 0) {
            loss[client] = of_loss / count;
            if (dscale != nullptr) dscale[client] = of_dscale / count;
            weight[client] = scale[client] / count;
        }
    }
}

// dX, a tile a block.
template <class T, int kPack>
__global__ void __launch_bounds__(product::kThreads, product::kBlocksPerSm<T>)
    dx_kernel(const float* __restrict__ g, const T* __restrict__ prototypes,
              const std::uint8_t* __restrict__ valid, const float* __restrict__ weight,
              T* __restrict__ dx, Shape shape) {
    __shared__ product::Tiles<T> tiles;
    const std::int64_t row_tiles = ceil_div(shape.rows, kTile);
    const std::int64_t column_tiles = ceil_div(shape.width, kTile);
    const std::int64_t tasks = shape.clients * row_tiles * column_tiles;
    for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const std::int64_t column = task % column_tiles * kTile;
        const std::int64_t row = task / column_tiles % row_tiles * kTile;
        const std::int64_t client = task / column_tiles / row_tiles;
        const std::int64_t first_row = client * shape.rows + row;
        const Matrix<float, 4, Axis::depth> a{g + first_row * shape.pitch(), shape.pitch(),
                                              shape.rows - row, shape.prototypes};
        const Matrix<T, kPack, Axis::row> b{
            prototypes + client * shape.prototypes * shape.width + column, shape.width,
            shape.width - column, shape.prototypes,
            valid == nullptr ? nullptr : valid + client * shape.prototypes};
        const auto tile = product::multiply(tiles, a, b);
        T* to = dx + first_row * shape.width + column;
        const float factor = weight[client];
        product::for_each(tile, shape.rows - row, shape.width - column,
                          [&](int r, int d, float value) {
                              to[r * shape.width + d] = product::Convert::to<T>(factor * value);
                          });
    }
}

// A tile of dP, or of one part of it, a block.
template <class T, int kPack>
__global__ void __launch_bounds__(product::kThreads, product::kBlocksPerSm<T>)
    dp_kernel(const float* __restrict__ g, const T* __restrict__ x,
              const std::uint8_t* __restrict__ takes_part, const float* __restrict__ weight,
              T* __restrict__ dp, float* __restrict__ partial, std::int64_t parts,
              std::int64_t rows_of_part, Shape shape) {
    __shared__ product::Tiles<T> tiles;
    const std::int64_t row_tiles = ceil_div(shape.prototypes, kTile);
    const std::int64_t column_tiles = ceil_div(shape.width, kTile);
    const std::int64_t tasks = parts * shape.clients * row_tiles * column_tiles;
    for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const std::int64_t column = task % column_tiles * kTile;
        const std::int64_t row = task / column_tiles % row_tiles * kTile;
        const std::int64_t client = task / column_tiles / row_tiles % shape.clients;
        const std::int64_t part = task / column_tiles / row_tiles / shape.clients;
        const std::int64_t begin = part * rows_of_part;
        const std::int64_t left = shape.rows - begin;
        const std::int64_t depth = left < rows_of_part ? left : rows_of_part;
        const std::int64_t first = client * shape.rows + begin;
        const Matrix<float, 4, Axis::row> a{g + first * shape.pitch() + row, shape.pitch(),
                                            shape.prototypes - row, depth};
        const Matrix<T, kPack, Axis::row> b{x + first * shape.width + column, shape.width,
                                            shape.width - column, depth, takes_part + first};
        const auto tile = product::multiply(tiles, a, b);
        const std::int64_t to = (client * shape.prototypes + row) * shape.width + column;
        float* to_part = partial + part * shape.clients * shape.prototypes * shape.width;
        const float factor = weight[client];
        product::for_each(tile, shape.prototypes - row, shape.width - column,
                          [&](int k, int d, float value) {
                              const std::int64_t at = to + k * shape.width + d;
                              if (parts == 1) {
                                  dp[at] = product::Convert::to<T>(factor * value);
                              } else {
                                  to_part[at] = value;
                              }
                          });
    }
}

// dP from its parts, an element a thread.
template <class T>
__global__ void __launch_bounds__(kThreads, kBlocksPerSm)
    sum_parts_kernel(const float* __restrict__ partial, const float* __restrict__ weight,
                     T* __restrict__ dp, std::int64_t parts, Shape shape) {
    const std::int64_t of_client = shape.prototypes * shape.width;
    const std::int64_t size = shape.clients * of_client;
    std::int64_t at = std::int64_t{blockIdx.x} * kThreads + threadIdx.x;
    for (; at < size; at += std::int64_t{gridDim.x} * kThreads) {
        float sum = 0;
        for (std::int64_t part = 0; part < parts; ++part) sum += partial[part * size + at];
        dp[at] = product::Convert::to<T>(weight[at / of_client] * sum);
    }
}

template <class T, int kPack>
cudaError_t run(const T* x, const T* prototypes, const std::int64_t* target, Scale scale,
                const std::uint8_t* valid, float* loss, T* dx, T* dp, float* dscale,
                const Workspace& work, const Shape& shape, void* stream) {
    const std::int64_t rows = shape.clients * shape.rows;
    const std::int64_t row_tiles = shape.clients * ceil_div(shape.rows, kTile);
    const std::int64_t parts = shape.parts();
    cudaError_t error =
        launch(similarity_kernel<T, kPack>, row_tiles * ceil_div(shape.prototypes, kTile),
               product::kThreads, stream, x, prototypes, work.t, shape);
    if (error == cudaSuccess) {
        error = launch(rows_kernel, ceil_div(rows, kThreads / 32), kThreads, stream, target, scale,
                       valid, work.t, work.loss, work.dscale, work.takes_part, shape);
    }
    if (error == cudaSuccess) {
        error = launch(clients_kernel, shape.clients, kThreads, stream, work.takes_part, scale,
                       work.loss, work.dscale, loss, dscale, work.weight, shape);
    }
    if (error == cudaSuccess && dx != nullptr) {
        error =
            launch(dx_kernel<T, kPack>, row_tiles * ceil_div(shape.width, kTile), product::kThreads,
                   stream, work.t, prototypes, valid, work.weight, dx, shape);
    }
    if (error == cudaSuccess && dp != nullptr) {
        error = launch(dp_kernel<T, kPack>, parts * shape.tiles_of_dp(), product::kThreads, stream,
                       work.t, x, work.takes_part, work.weight, dp, work.partial, parts,
                       shape.rows_of_part(), shape);
        if (error == cudaSuccess && parts > 1) {
            const std::int64_t size = shape.clients * shape.prototypes * shape.width;
            error = launch(sum_parts_kernel<T>, ceil_div(size, kThreads), kThreads, stream,
                           work.partial, work.weight, dp, parts, shape);
        }
    }
    return error;
}

template <class T>
int prototype_nce(const T* x, const T* prototypes, const std::int64_t* target, Scale scale,
                  const std::uint8_t* valid, float* loss, T* dx, T* dp, float* dscale,
                  void* workspace, const Shape& shape, void* stream) {
    if (shape.clients == 0) return cudaSuccess;
    if (!aligned(workspace)) return cudaErrorInvalidValue;
    const Workspace work(workspace, shape);
    const bool packed = shape.width % kWidest<T> == 0 && aligned(x, prototypes);
    const auto chosen = packed ? run<T, kWidest<T>> : run<T, 1>;
    return chosen(x, prototypes, target, scale, valid, loss, dx, dp, dscale, work, shape, stream);
}

}  // namespace
}  // namespace fedsyn::prototype_nce

int64_t fedsyn_prototype_nce_workspace(int64_t clients, int64_t rows, int64_t count,
                                       int64_t width) {
    using namespace fedsyn::prototype_nce;
    if (clients == 0) return 0;
    return Workspace(nullptr, Shape{clients, rows, count, width}).bytes;
}

int fedsyn_prototype_nce_f32(const float* x, const float* prototypes, const int64_t* target,
                             const float* scales, float scale, const uint8_t* valid, float* loss,
                             float* to_x, float* to_prototypes, float* to_scale, void* workspace,
                             int64_t clients, int64_t rows, int64_t count, int64_t width,
                             void* stream) {
    return fedsyn::prototype_nce::prototype_nce(x, prototypes, target, {scales, scale}, valid, loss,
                                                to_x, to_prototypes, to_scale, workspace,
                                                {clients, rows, count, width}, stream);
}

int fedsyn_prototype_nce_bf16(const uint16_t* x, const uint16_t* prototypes, const int64_t* target,
                              const float* scales, float scale, const uint8_t* valid, float* loss,
                              uint16_t* to_x, uint16_t* to_prototypes, float* to_scale,
                              void* workspace, int64_t clients, int64_t rows, int64_t count,
                              int64_t width, void* stream) {
    using T = __nv_bfloat16;
    return fedsyn::prototype_nce::prototype_nce(
        reinterpret_cast<const T*>(x), reinterpret_cast<const T*>(prototypes), target,
        {scales, scale}, valid, loss, reinterpret_cast<T*>(to_x),
        reinterpret_cast<T*>(to_prototypes), to_scale, workspace, {clients, rows, count, width},
        stream);
}
