// Work shared out to plain threads.
//
// Threads of a call's own rather than OpenMP: torch brings an OpenMP runtime, and a second one
// would keep a second pool of spinning threads and break after fork().
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <system_error>
#include <thread>
#include <vector>

namespace fedsyn {

// Fewest elements worth a thread: about a hundred microseconds of work against twenty to start one.
inline constexpr std::int64_t kGrain = std::int64_t{1} << 17;

// Calls body(begin, end) on disjoint ranges that cover [0, rows), from at most `threads` threads.
template <class Body>
void parallel_rows(std::int64_t rows, std::int64_t elements_per_row, int threads, Body body) {
    if (rows < 1) return;
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

// Threads that live for several steps of one call.
class Team {
  public:
    explicit Team(int threads) {
        for (int thread = 1; thread < threads; ++thread) {
            try {
                workers_.emplace_back([this, thread] { work(thread); });
            } catch (const std::system_error&) {  // no thread to be had: the others do its share
                break;
            }
        }
    }
    ~Team() {
        tasks_ = kStop;
        start();
        for (std::thread& worker : workers_) worker.join();
    }
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    int size() const { return static_cast<int>(workers_.size()) + 1; }

    // Calls body(task, thread) once for each task in [0, tasks), in any order, and waits for all.
    template <class Body>
    void each(std::int64_t tasks, Body body) {
        if (workers_.empty() || tasks < 2) {
            for (std::int64_t task = 0; task < tasks; ++task) body(task, 0);
            return;
        }
        body_ = &body;
        call_ = [](void* of, std::int64_t task, int thread) {
            (*static_cast<Body*>(of))(task, thread);
        };
        tasks_ = tasks;
        next_.store(0, std::memory_order_relaxed);
        busy_.store(size() - 1, std::memory_order_relaxed);
        start();
        take(0);
        for (int left = busy_.load(); left > 0; left = busy_.load()) busy_.wait(left);
    }

  private:
    static constexpr std::int64_t kStop = -1;

    void start() {
        round_.fetch_add(1);
        round_.notify_all();
    }
    void take(int thread) {
        for (std::int64_t task = next_.fetch_add(1); task < tasks_; task = next_.fetch_add(1)) {
            call_(body_, task, thread);
        }
    }
    void work(int thread) {
        for (unsigned seen = 0;; ++seen) {
            round_.wait(seen);
            if (tasks_ == kStop) return;
            take(thread);
            if (busy_.fetch_sub(1) == 1) busy_.notify_one();
        }
    }

    std::vector<std::thread> workers_;
    std::atomic<unsigned> round_{0};
    std::atomic<int> busy_{0};
    std::atomic<std::int64_t> next_{0};
    std::int64_t tasks_ = 0;
    void* body_ = nullptr;
    void (*call_)(void*, std::int64_t, int) = nullptr;
};

}  // namespace fedsyn
