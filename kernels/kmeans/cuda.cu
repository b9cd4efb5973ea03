// The steps of k-means, batched over clients, on the GPU.
//
//   assignment_i = argmin_k sum_d (x_id - c_kd)^2
//   sums_k       = sum over rows i of cluster k, w_i x_i
//
// Distances are sums of squared differences, not |x|^2 - 2 x.c + |c|^2: a third more instructions,
// and no cancellation where rows are close to their centroids.
#include "kernels/kmeans/cuda.h"

#include <climits>
#include <cstdint>

#include "kernels/common/product.cuh"
#include "kernels/common/warp.cuh"

namespace fedsyn::kmeans {
namespace {

using product::Axis;
using product::kTile;
using product::Matrix;
using Distances = product::Accumulator<float>;

constexpr int kColumns = Distances::kColumns;

// A block takes 64 rows of a client and walks over tiles of 64 centroids.
template <int kPack>
__global__ void __launch_bounds__(product::kThreads, product::kBlocksPerSm<float>)
    assign_kernel(const float* __restrict__ x, const float* __restrict__ centroids,
                  const std::int64_t* __restrict__ counts, std::int64_t* __restrict__ assignment,
                  float* __restrict__ distance, std::int64_t clients, std::int64_t rows,
                  std::int64_t centroid_count, std::int64_t width) {
    using Operand = Matrix<float, kPack, Axis::depth>;
    __shared__ product::Tiles<float> tiles;
    __shared__ float least[kTile];
    __shared__ int nearest[kTile];
    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t row_tiles = ceil_div(rows, kTile);
    for (std::int64_t task = blockIdx.x; task < clients * row_tiles; task += gridDim.x) {
        const std::int64_t client = task / row_tiles;
        const std::int64_t row = task % row_tiles * kTile;
        const std::int64_t first = client * rows + row;
        const std::int64_t exist = (counts == nullptr ? rows : counts[client]) - row;
        if (thread < kTile) {
            least[thread] = INFINITY;
            nearest[thread] = 0;
        }
        const std::int64_t columns = exist > 0 ? centroid_count : 0;
        for (std::int64_t column = 0; column < columns; column += kTile) {
            const std::int64_t at = client * centroid_count + column;
            // Its barriers also stand between the lines above and below.
            const auto tile = product::multiply<product::SquaredDistance>(
                tiles, Operand{x + first * width, width, exist, width},
                Operand{centroids + at * width, width, centroid_count - column, width});
#pragma unroll
            for (int i = 0; i < product::kHeld; i += kColumns) {
                float value = INFINITY;
                int index = INT_MAX;
#pragma unroll
                for (int j = 0; j < kColumns; ++j) {
                    const std::int64_t k = column + tile.column(j);
                    if (k < centroid_count && tile.at[i + j] < value) {
                        value = tile.at[i + j];
                        index = static_cast<int>(k);
                    }
                }
                group_first<Distances::kLanes>(value, index,
                                               [](float a, float b) { return a < b; });
                const int r = tile.row(i);
                if (thread % Distances::kLanes == 0 && value < least[r]) {
                    least[r] = value;
                    nearest[r] = index;
                }
            }
        }
        __syncthreads();
        if (thread < kTile && row + thread < rows) {
            assignment[first + thread] = thread < exist ? nearest[thread] : -1;
            distance[first + thread] = thread < exist ? least[thread] : 0.0f;
        }
    }
}

constexpr int kLanes = 32;  // of a row, neighbours in its width
constexpr int kRows = 16;   // that a block adds up side by side
constexpr int kBlocksPerSm = 2;

// A block takes 32 columns of a cluster: 16 sums of every 16th row, then their sum.
__global__ void __launch_bounds__(kLanes* kRows, kBlocksPerSm)
    update_kernel(const float* __restrict__ x, const float* __restrict__ weight,
                  const std::int64_t* __restrict__ order, const std::int64_t* __restrict__ start,
                  float* __restrict__ sums, float* __restrict__ mass, std::int64_t clients,
                  std::int64_t rows, std::int64_t clusters, std::int64_t width) {
    __shared__ float part[kRows][kLanes];
    __shared__ float part_of_mass[kRows];
    const int lane = static_cast<int>(threadIdx.x) % kLanes;
    const int strand = static_cast<int>(threadIdx.x) / kLanes;
    const std::int64_t chunks = ceil_div(width, kLanes);
    const std::int64_t tasks = clients * clusters * chunks;
    for (std::int64_t task = blockIdx.x; task < tasks; task += gridDim.x) {
        const std::int64_t cluster = task / chunks;  // of all clients'
        const std::int64_t client = cluster / clusters;
        const std::int64_t d = task % chunks * kLanes + lane;
        const std::int64_t* bounds = start + cluster + client;
        const std::int64_t end = bounds[1];
        float sum = 0;
        float of_mass = 0;
#pragma unroll 4
        for (std::int64_t i = bounds[0] + strand; i < end; i += kRows) {
            const std::int64_t row = client * rows + order[client * rows + i];
            const float w = weight == nullptr ? 1.0f : weight[row];
            if (d < width) sum = fmaf(w, x[row * width + d], sum);
            of_mass += w;
        }
        __syncthreads();  // the last task's parts have been read
        part[strand][lane] = sum;
        if (lane == 0) part_of_mass[strand] = of_mass;
        __syncthreads();
        if (strand == 0 && d < width) {
            sum = 0;
            of_mass = 0;
            for (int i = 0; i < kRows; ++i) {
                sum += part[i][lane];
                of_mass += part_of_mass[i];
            }
            sums[cluster * width + d] = sum;
            if (d == 0) mass[cluster] = of_mass;
        }
    }
}

int assign(const float* x, const float* centroids, const std::int64_t* counts,
           std::int64_t* assignment, float* distance, std::int64_t clients, std::int64_t rows,
           std::int64_t centroid_count, std::int64_t width, void* stream) {
    if (centroid_count > INT_MAX) return cudaErrorInvalidValue;
    const bool packed = width % kWidest<float> == 0 && aligned(x, centroids);
    return launch(packed ? assign_kernel<kWidest<float>> : assign_kernel<1>,
                  clients * ceil_div(rows, kTile), product::kThreads, stream, x, centroids, counts,
                  assignment, distance, clients, rows, centroid_count, width);
}

}  // namespace
}  // namespace fedsyn::kmeans

int fedsyn_kmeans_assign_f32(const float* x, const float* centroids, const int64_t* counts,
                             int64_t* assignment, float* distance, int64_t clients, int64_t rows,
                             int64_t centroid_count, int64_t width, void* stream) {
    return fedsyn::kmeans::assign(x, centroids, counts, assignment, distance, clients, rows,
                                  centroid_count, width, stream);
}

int fedsyn_kmeans_update_f32(const float* x, const float* weight, const int64_t* order,
                             const int64_t* start, float* sums, float* mass, int64_t clients,
                             int64_t rows, int64_t clusters, int64_t width, void* stream) {
    using namespace fedsyn::kmeans;
    return fedsyn::launch(update_kernel, clients * clusters * fedsyn::ceil_div(width, kLanes),
                          kLanes * kRows, stream, x, weight, order, start, sums, mass, clients,
                          rows, clusters, width);
}
