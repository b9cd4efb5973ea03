// C interface of the steps of k-means; kernels/common/cuda_api.h has the conventions.
#pragma once

#include "kernels/common/cuda_api.h"

#ifdef __cplusplus
extern "C" {
#endif

// x: [clients, rows, width]; centroids: [clients, centroids, width], infinite where there is none;
// counts: [clients], the rows that exist (the first), or null where all do -> assignment: [clients,
// rows], the nearest centroid, the first of equals, and distance: [clients, rows], squared; -1 and
// 0 for rows that do not exist.
FEDSYN_API int fedsyn_kmeans_assign_f32(const float* x, const float* centroids,
                                        const int64_t* counts, int64_t* assignment, float* distance,
                                        int64_t clients, int64_t rows, int64_t centroid_count,
                                        int64_t width, void* stream);

// Sums of a client's rows by cluster, in a fixed order. order: [clients, rows], rows sorted by
// cluster; start: [clients, clusters + 1], where each cluster starts in it; weight: [clients,
// rows], or null where each row counts 1 -> sums: [clients, clusters, width] and mass: [clients,
// clusters], the sums of weight x and of weight.
FEDSYN_API int fedsyn_kmeans_update_f32(const float* x, const float* weight, const int64_t* order,
                                        const int64_t* start, float* sums, float* mass,
                                        int64_t clients, int64_t rows, int64_t clusters,
                                        int64_t width, void* stream);

#ifdef __cplusplus
}
#endif
