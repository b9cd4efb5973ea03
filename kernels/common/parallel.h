// Contiguous shares of rows over plain threads.
#pragma once

#include <algorithm>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace fedsyn {

// Fewest elements worth a thread: about a hundred microseconds of work against twenty to start one.
inline constexpr std::int64_t kGrain = std::int64_t{1} << 17;

// Calls body(begin, end) on disjoint ranges that cover [0, rows), from at most `threads` threads.
//
// Short-lived std::threads rather than OpenMP: torch brings an OpenMP runtime of its own, and a
// second one would keep a second pool of spinning threads and break after fork().
template <class Body>
void parallel_rows(std::int64_t rows, std::int64_t elements_per_row, int threads, Body body) {
    const std::int64_t worthwhile = rows * elements_per_row / kGrain;
    const std::int64_t shares =
        std::clamp<std::int64_t>(std::min<std::int64_t>(threads, worthwhile), 1, rows);
    const auto start = [&](std::int64_t share) { return rows * share / shares; };

    std::vector<std::thread> workers;
    workers.reserve(shares - 1);
    for (std::int64_t share = 1; share < shares; ++share) {
        try {
            workers.emplace_back(body, start(share), start(share + 1));
        } catch (const std::system_error&) {  // no thread to be had: this one does its share
            body(start(share), start(share + 1));
        }
    }
    body(0, start(1));
    for (std::thread& worker : workers) worker.join();
}

}  // namespace fedsyn
