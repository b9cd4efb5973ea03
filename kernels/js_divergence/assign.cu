// The divergence between two modalities' assignments to prototypes on the GPU, fused.
//
//   p = softmax(s x PX^T),  q = softmax(s y PY^T),  JSD(p, q)       formula.h has the mathematics
//
// A block takes 64 rows and walks over tiles of 64 prototypes, twice: the first walk finds the
// maxima and sums of both softmaxes, the second adds up the divergence. The logits are computed
// anew rather than stored, and not even that where one tile holds all prototypes. js_filter repeats
// this for every client's prototypes and keeps the least divergence; js_assign has one client.
#include <cfloat>
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
using Logits = product::Accumulator<float>;

constexpr int kRows = Logits::kRows, kColumns = Logits::kColumns;  // of a tile that a thread holds
constexpr int kLanes = Logits::kLanes;                             // that share these rows
constexpr int kBlocksPerSm = 2;                                    // two tiles of logits a thread

struct Softmax {
    float greatest, sum;
};

struct Shared {
    product::Tiles<float> tiles;
    Softmax p[kTile], q[kTile];  // of the client at hand, in base 2
    float score[kTile];          // the greatest s (x.px + y.py)
    int chosen[kTile];           // and its prototype
    float least[kTile];          // divergence of the clients so far
    int client[kTile], assignment[kTile];
};

struct Arguments {
    const float *x, *y, *px, *py;
    float scale;
    const std::uint8_t* valid;
    float* divergence;
    std::int64_t *client, *assignment;
    std::int64_t rows, clients, prototypes, width;
};

// Adds a row's four logits in each of its threads to its softmax.
__device__ Softmax extended(const Softmax& before, const float* logits) {
    float greatest = before.greatest;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) greatest = fmaxf(greatest, logits[j]);
    greatest = group_max<kLanes>(greatest);
    float sum = 0;
#pragma unroll
    for (int j = 0; j < kColumns; ++j) sum += fast_exp2(logits[j] - greatest);
    return {greatest, before.sum * fast_exp2(before.greatest - greatest) + group_sum<kLanes>(sum)};
}

template <int kPack>
__global__ void __launch_bounds__(product::kThreads, kBlocksPerSm) filter_kernel(Arguments of) {
    __shared__ Shared shared;
    const bool leads = threadIdx.x % kLanes == 0;
    const int first_row = Logits::row(0);
    const float to_bits = of.scale * kLog2E;
    const std::int64_t tasks = ceil_div(of.rows, kTile);
    for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const std::int64_t row = task * kTile;
        const auto product_of = [&](const float* data, const float* prototypes) {
            using Operand = Matrix<float, kPack, Axis::depth>;
            return [=, &of](std::int64_t client, std::int64_t column) {
                const std::int64_t at = client * of.prototypes + column;
                return product::multiply(
                    shared.tiles, Operand{data + row * of.width, of.width, of.rows - row, of.width},
                    Operand{prototypes + at * of.width, of.width, of.prototypes - column,
                            of.width});
            };
        };
        const auto image = product_of(of.x, of.px);
        const auto text = product_of(of.y, of.py);
        // In base 2; minus infinity where there is no prototype.
        const auto compute = [&](std::int64_t client, std::int64_t column, Logits& u, Logits& v) {
            u = image(client, column);
            v = text(client, column);
#pragma unroll
            for (int i = 0; i < product::kHeld; ++i) {
                const std::int64_t k = column + Logits::column(i);
                const bool exists =
                    k < of.prototypes &&
                    (of.valid == nullptr || of.valid[client * of.prototypes + k] != 0);
                u.at[i] = exists ? to_bits * u.at[i] : -INFINITY;
                v.at[i] = exists ? to_bits * v.at[i] : -INFINITY;
            }
        };
        const auto extend = [&](std::int64_t column, const Logits& u, const Logits& v) {
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                const int r = first_row + i;
                const Softmax p = extended(shared.p[r], &u.at[i * kColumns]);
                const Softmax q = extended(shared.q[r], &v.at[i * kColumns]);
                float score = -INFINITY;
                int chosen = INT_MAX;
#pragma unroll
                for (int j = 0; j < kColumns; ++j) {
                    // Not fused with the scaling: x and y count alike.
                    const float sum = __fadd_rn(u.at[i * kColumns + j], v.at[i * kColumns + j]);
                    if (sum > score) {
                        score = sum;
                        chosen = static_cast<int>(column) + Logits::column(j);
                    }
                }
                group_first<kLanes>(score, chosen, [](float a, float b) { return a > b; });
                __syncwarp();  // the row's threads have read what stood here
                if (leads) {
                    shared.p[r] = p;
                    shared.q[r] = q;
                    if (score > shared.score[r]) {
                        shared.score[r] = score;
                        shared.chosen[r] = chosen;
                    }
                }
            }
        };
        const auto add_terms = [&](const Logits& u, const Logits& v, float (&terms)[kRows]) {
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                const Softmax p = shared.p[first_row + i];
                const Softmax q = shared.q[first_row + i];
                const float unit_p = 1 / p.sum;
                const float unit_q = 1 / q.sum;
#pragma unroll
                for (int j = 0; j < kColumns; ++j) {
                    terms[i] += term(unit_p * fast_exp2(u.at[i * kColumns + j] - p.greatest),
                                     unit_q * fast_exp2(v.at[i * kColumns + j] - q.greatest));
                }
            }
        };
        if (leads) {
            for (int r = first_row; r < first_row + kRows; ++r) {
                shared.least[r] = INFINITY;
                shared.client[r] = shared.assignment[r] = 0;
            }
        }
        for (std::int64_t client = 0; client < of.clients; ++client) {
            if (leads) {
                for (int r = first_row; r < first_row + kRows; ++r) {
                    // Finite: -infinity less itself is not a number.
                    shared.p[r] = shared.q[r] = {-FLT_MAX, 0.0f};
                    shared.score[r] = -INFINITY;
                    shared.chosen[r] = 0;
                }
            }
            Logits u, v;
            float terms[kRows] = {};
            // One loop for both walks, so that the products stand in the code once.
            const std::int64_t walk = ceil_div(of.prototypes, kTile);
            for (std::int64_t step = 0; step < 2 * walk; ++step) {
                const bool first = step < walk;
                const std::int64_t column = (first ? step : step - walk) * kTile;
                if (first || walk > 1) compute(client, column, u, v);
                if (first) {
                    extend(column, u, v);
                    __syncwarp();
                } else {
                    add_terms(u, v, terms);
                }
            }
#pragma unroll
            for (int i = 0; i < kRows; ++i) {
                const int r = first_row + i;
                const float divergence = divergence_of(group_sum<kLanes>(terms[i]));
                const bool exists = shared.p[r].sum != 0;  // some prototype of this client
                const bool less =
                    divergence < shared.least[r] || (isnan(divergence) && !isnan(shared.least[r]));
                if (leads && exists && less) {
                    shared.least[r] = divergence;
                    shared.client[r] = static_cast<int>(client);
                    shared.assignment[r] = shared.chosen[r];
                }
            }
            __syncwarp();  // the next client begins anew
        }
        if (leads) {
            for (int r = first_row; r < first_row + kRows && row + r < of.rows; ++r) {
                of.divergence[row + r] = shared.least[r];
                of.assignment[row + r] = shared.assignment[r];
                if (of.client != nullptr) of.client[row + r] = shared.client[r];
            }
        }
    }
}

int filter(const Arguments& of, void* stream) {
    if (of.prototypes > INT_MAX || of.clients > INT_MAX) return cudaErrorInvalidValue;
    const bool packed = of.width % kWidest<float> == 0 && aligned(of.x, of.y, of.px, of.py);
    return launch(packed ? filter_kernel<kWidest<float>> : filter_kernel<1>,
                  ceil_div(of.rows, kTile), product::kThreads, stream, of);
}

}  // namespace
}  // namespace fedsyn::js_divergence

int fedsyn_js_assign_f32(const float* x, const float* y, const float* px, const float* py,
                         float scale, const uint8_t* valid, float* divergence, int64_t* assignment,
                         int64_t rows, int64_t prototypes, int64_t width, void* stream) {
    return fedsyn::js_divergence::filter(
        {x, y, px, py, scale, valid, divergence, nullptr, assignment, rows, 1, prototypes, width},
        stream);
}

int fedsyn_js_filter_f32(const float* x, const float* y, const float* px, const float* py,
                         float scale, const uint8_t* valid, float* divergence, int64_t* client,
                         int64_t* assignment, int64_t rows, int64_t clients, int64_t prototypes,
                         int64_t width, void* stream) {
    return fedsyn::js_divergence::filter({x, y, px, py, scale, valid, divergence, client,
                                          assignment, rows, clients, prototypes, width},
                                         stream);
}
