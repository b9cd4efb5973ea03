// k-means of clients' rows on the CPU: greedy k-means++ seeding and Lloyd's iterations.
//
// fedsyn/ops/kmeans.py says what is computed. Distances are float32, sums are float64; a client's
// rows are moved to their mean first, so that distances lose nothing where the mean is far away.
#pragma once

#include <cstdint>

#include "kernels/common/isa.h"

namespace fedsyn::kmeans {

struct Arguments {
    const float* x;             // [clients, rows, width]
    const float* draws;         // [clients, count, trials], uniform in [0, 1)
    const std::uint8_t* valid;  // [clients, rows], or null: all rows exist
    const double* weight;       // [clients, rows], not negative, or null: all have 1
    float* centroids;           // [clients, count, width]
    std::int64_t* assignment;   // [clients, rows]
    std::int64_t* counts;       // [clients, count]
    std::int64_t clients, rows, width, count, trials, iterations;
    bool spherical;
};

// The first client with a row that exists and is not finite (or overflows when squared), else -1:
// then the results mean nothing. They depend neither on the number of threads nor on the other
// clients.
std::int64_t cluster(const Arguments& arguments, int threads, Isa isa);

// ---- Between cpu.cpp and driver.cpp ------------------------------------------------------------

// A client's rows that exist, in panels as kernels/common/gemm.h has them: kPanel rows as columns,
// the last panel filled up with zeros. kPanel is a multiple of the tiles of all instruction sets.
inline constexpr std::int64_t kPanel = 32;

struct Points {
    float* panels;  // [panels, width, kPanel]
    std::int64_t rows, width;
};

// The same rows where the caller has them.
struct Rows {
    const float* x;             // the client's [rows, width]
    const std::int64_t* index;  // those that exist
    const double* factor;       // what each is multiplied with
};

// What every instruction set has.
struct Kernels {
    // Fills panels [begin, end) with the rows times their factors less `origin` [width].
    void (*pack)(const Rows&, const float* origin, std::int64_t begin, std::int64_t end,
                 const Points&);
    // point [width]: one of those rows. Bit for bit what pack gives, so that a row's distance to
    // itself is zero.
    void (*see)(const Rows&, const float* origin, std::int64_t row, std::int64_t width,
                float* point);
    // left [trials, panels * kPanel]: the smaller of gap [panels * kPanel] and the squared distance
    // to each of seeds [trials, width], and shares [trials, panels]: the sums of mass
    // [panels * kPanel] times that, for panels [begin, end).
    void (*approach)(const Points&, const float* seeds, std::int64_t trials, const float* gap,
                     const double* mass, float* left, double* shares, std::int64_t begin,
                     std::int64_t end);
    // assignment [rows] of panels [begin, end): the nearest of centroids [count, width], half_norms
    // [count] their squared norms halved; the first of equals. Whether any row's changed.
    bool (*assign)(const Points&, const float* centroids, const float* half_norms,
                   std::int64_t count, float* scratch, std::int32_t* assignment, std::int64_t begin,
                   std::int64_t end);
    // sum [width] of `count` rows times their factors, in the order of members [count].
    void (*sum)(const Rows&, const std::int32_t* members, std::int64_t count, std::int64_t width,
                double* sum);
};

}  // namespace fedsyn::kmeans

FEDSYN_KERNELS(kmeans::Kernels, kKmeansKernels)
