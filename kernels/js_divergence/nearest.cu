// The client whose distribution is nearest, by the Jensen-Shannon divergence, on the GPU.
//
// With h^2 = 1/2 sum_k (sqrt(p_k) - sqrt(q_k))^2,
//
//   ln 2 h^2 <= JSD(p, q) <= h^2.
//
// This holds bin by bin, so the rows need not even sum to one: with m and d of formula.h, the bins'
// shares are m/4 phi(d) and m/2 (1 - sqrt(1 - d^2)), whose series in d^2 have the coefficients
// 1/4 (1, 1/6, 1/15, ...) and 1/4 (1, 1/4, 1/8, ...). All are positive and their ratio falls, so
// the ratio of the sums falls from 1 at d = 0 to ln 2 at d = 1.
//
// h^2 costs two instructions a bin, as a tile of a product; JSD costs three of the special-function
// unit. A block takes 64 rows and walks over tiles of 64 clients. A client whose lower bound is
// above the least upper bound (or divergence) of its row so far cannot be the nearest; the rest are
// computed exactly, a warp a pair.
#include <climits>
#include <cstdint>

#include "kernels/common/product.cuh"
#include "kernels/common/warp.cuh"
#include "kernels/js_divergence/cuda.h"
#include "kernels/js_divergence/term.cuh"

namespace fedsyn::js_divergence {
namespace {

using product::Axis;
using product::kTile;
using product::Matrix;
using Distances = product::Accumulator<float>;
using Key = unsigned long long;

constexpr int kColumns = Distances::kColumns;

// Rounding: h^2 and the computed divergence are exact to a share that grows with the sum's length,
// and where both are tiny to kAbsolute, as the roots of neighbours may round apart.
constexpr float kShare = 4e-3f;
constexpr float kShareOfBin = 2.5e-7f;
constexpr float kAbsolute = 1e-11f;

struct Root {
    template <class T>
    __device__ static T to(float value) {
        return sqrtf(value);
    }
};

// Keys order as divergences, then as clients; not-a-number comes first, as in torch.min.
__device__ Key key_of(float divergence, std::int64_t client) {
    const Key order = isnan(divergence) ? 0 : Key{__float_as_uint(divergence)} + 1;
    return order << 32 | static_cast<Key>(client);
}

__device__ float divergence_in(Key key) {
    const auto order = static_cast<unsigned>(key >> 32);
    return order == 0 ? NAN : __uint_as_float(order - 1);
}

struct Shared {
    product::Tiles<float> tiles;
    float bound[kTile];  // no client of these rows that is nearest lies above
    Key nearest[kTile];
    int candidates;
    std::uint16_t candidate[kTile * kTile];  // row * 64 + column, in any order
};

template <int kPack>
__global__ void __launch_bounds__(product::kThreads, product::kBlocksPerSm<float>)
    nearest_kernel(const float* __restrict__ p, const float* __restrict__ q,
                   float* __restrict__ divergence, std::int64_t* __restrict__ client,
                   std::int64_t rows, std::int64_t clients, std::int64_t k) {
    using Operand = Matrix<float, kPack, Axis::depth>;
    __shared__ Shared shared;
    const int thread = static_cast<int>(threadIdx.x);
    const int lane = thread % 32;
    const float lower = kLn2 * (1 - kShare - kShareOfBin * static_cast<float>(k));
    const std::int64_t tasks = ceil_div(rows, kTile);
    for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const std::int64_t row = task * kTile;
        if (thread < kTile) {
            shared.bound[thread] = INFINITY;
            shared.nearest[thread] = ~Key{0};
        }
        for (std::int64_t column = 0; column < clients; column += kTile) {
            const auto twice = product::multiply<product::SquaredDistance, Root>(
                shared.tiles, Operand{p + row * k, k, rows - row, k},
                Operand{q + column * k, k, clients - column, k});
            if (thread == 0) shared.candidates = 0;
#pragma unroll
            for (int i = 0; i < product::kHeld; i += kColumns) {
                float least = INFINITY;
#pragma unroll
                for (int j = 0; j < kColumns; ++j) {
                    if (column + twice.column(j) < clients) {
                        least = fminf(least, 0.5f * twice.at[i + j]);
                    }
                }
                least = group_min<Distances::kLanes>(least);
                if (thread % Distances::kLanes == 0) {
                    float& bound = shared.bound[twice.row(i)];
                    bound = fminf(bound, least);
                }
            }
            __syncthreads();
#pragma unroll
            for (int i = 0; i < product::kHeld; ++i) {
                const int r = twice.row(i);
                const int c = twice.column(i);
                const bool beyond = lower * (0.5f * twice.at[i]) > shared.bound[r] + kAbsolute;
                if (row + r < rows && column + c < clients && !beyond) {
                    shared.candidate[atomicAdd(&shared.candidates, 1)] =
                        static_cast<std::uint16_t>(r * kTile + c);
                }
            }
            __syncthreads();
            for (int i = thread / 32; i < shared.candidates; i += product::kThreads / 32) {
                const int r = shared.candidate[i] / kTile;
                const std::int64_t c = column + shared.candidate[i] % kTile;
                const float* a = p + (row + r) * k;
                const float* b = q + c * k;
                float total = 0;
                for (std::int64_t j = lane; j < k; j += 32) total += term(a[j], b[j]);
                total = group_sum<32>(total);
                if (lane == 0) atomicMin(&shared.nearest[r], key_of(divergence_of(total), c));
            }
            __syncthreads();
            if (thread < kTile && shared.nearest[thread] != ~Key{0}) {
                shared.bound[thread] =
                    fminf(shared.bound[thread], divergence_in(shared.nearest[thread]));
            }
        }
        if (thread < kTile && row + thread < rows) {
            divergence[row + thread] = divergence_in(shared.nearest[thread]);
            client[row + thread] = static_cast<std::int64_t>(shared.nearest[thread] & 0xffffffffu);
        }
    }
}

int nearest(const float* p, const float* q, float* divergence, std::int64_t* client,
            std::int64_t rows, std::int64_t clients, std::int64_t k, void* stream) {
    if (clients > INT_MAX) return cudaErrorInvalidValue;
    const bool packed = k % kWidest<float> == 0 && aligned(p, q);
    return launch(packed ? nearest_kernel<kWidest<float>> : nearest_kernel<1>,
                  ceil_div(rows, kTile), product::kThreads, stream, p, q, divergence, client, rows,
                  clients, k);
}

}  // namespace
}  // namespace fedsyn::js_divergence

int fedsyn_js_nearest_f32(const float* p, const float* q, float* divergence, int64_t* client,
                          int64_t rows, int64_t clients, int64_t k, void* stream) {
    return fedsyn::js_divergence::nearest(p, q, divergence, client, rows, clients, k, stream);
}
