// Passes the gallery by the queries, which are shared out to threads, and has what is done to the
// few scores that matter.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/ranking/cpu.h"

namespace fedsyn::ranking {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

// What is not finite is lowest, and adding zero unites -0 with 0.
float ranked(float score) {
    return std::isfinite(score) ? score + 0.0f : -kInfinity;
}

// ---- Passing the gallery by the queries --------------------------------------------------------

// Queries of one task: as many as a strip of the gallery is worth loading for, fewer if threads
// would have nothing to do, in whole tiles of kernels/common/gemm.h.
std::int64_t tile_rows(const Operands& o, int threads) {
    constexpr std::int64_t kTile = 12, kMost = 96;
    return std::min(kMost, ceil_div(ceil_div(o.queries, threads), kTile) * kTile);
}

int team_size(const Operands& o, std::int64_t rows, int threads) {
    const std::int64_t worthwhile = o.queries * o.items * o.width / kGrain;
    return static_cast<int>(std::clamp<std::int64_t>(std::min<std::int64_t>(threads, worthwhile), 1,
                                                     ceil_div(o.queries, rows)));
}

// A part of the gallery, packed: it stays in the last cache while all queries go by.
class Block {
  public:
    Block(const Operands& o, const Kernels& kernels)
        : o_(o), kernels_(kernels), memory_(most(o) * o.width) {}

    // Calls visit(first query, queries, strip, first item, items, thread) for each tile of `rows`
    // of the queries [begin, end) and each strip of the gallery, those of a query in order.
    template <class Visit>
    void sweep(std::int64_t begin, std::int64_t end, std::int64_t rows, Team& team, Visit visit) {
        for (std::int64_t first = 0; first < o_.items; first += most(o_)) {
            const std::int64_t count = std::min(most(o_), o_.items - first);
            const auto in_strip = [&](std::int64_t at) { return std::min(kStrip, count - at); };
            team.each(ceil_div(count, kStrip), [&](std::int64_t strip, int) {
                const std::int64_t at = strip * kStrip;
                kernels_.pack(o_, first + at, in_strip(at), memory_.data() + at * o_.width);
            });
            team.each(ceil_div(end - begin, rows), [&](std::int64_t tile, int thread) {
                const std::int64_t query = begin + tile * rows;
                for (std::int64_t at = 0; at < count; at += kStrip) {
                    visit(query, std::min(rows, end - query), memory_.data() + at * o_.width,
                          first + at, in_strip(at), thread);
                }
            });
        }
    }

  private:
    static std::int64_t most(const Operands& o) {
        constexpr std::int64_t kFloats = std::int64_t{1} << 20;
        const std::int64_t all = ceil_div(o.items, kStrip) * kStrip;
        return std::clamp(kFloats / o.width / kStrip * kStrip, kStrip, all);
    }

    const Operands& o_;
    const Kernels& kernels_;
    Scratch memory_;
};

// Calls look(query, scores, first item, items) for each query and strip, those of a query in order.
template <class Look>
void each_strip(const Operands& o, const Kernels& kernels, int threads, Look look) {
    const std::int64_t rows = tile_rows(o, threads);
    Team team(team_size(o, rows, threads));
    std::vector<Scratch> scratch;
    for (int thread = 0; thread < team.size(); ++thread) scratch.emplace_back(rows * kStrip);
    Block(o, kernels)
        .sweep(0, o.queries, rows, team,
               [&](std::int64_t query, std::int64_t queries, const float* strip, std::int64_t first,
                   std::int64_t items, int thread) {
                   float* scores = scratch[thread].data();
                   kernels.score(o, query, queries, strip, items, scores, kStrip);
                   for (std::int64_t i = 0; i < queries; ++i) {
                       look(query + i, scores + i * kStrip, first, items);
                   }
               });
}

// ---- The best few ------------------------------------------------------------------------------

struct Candidate {
    float score;
    std::int32_t item;

    bool operator<(const Candidate& other) const {  // ranks before
        return score > other.score || (score == other.score && item < other.item);
    }
};

// The best k candidates so far of a query, and some more: they are told apart when room runs out.
class Best {
  public:
    Best(std::int64_t k, Candidate* room, std::int64_t capacity)
        : room_(room), k_(k), capacity_(capacity) {}

    bool full() const { return size_ >= k_; }
    float threshold() const { return threshold_; }

    // Items are offered in order; a full list takes none that does not beat the threshold.
    void offer(Candidate candidate) {
        if (full() && !(candidate.score > threshold_)) return;
        room_[size_++] = candidate;
        if (size_ == k_) {
            threshold_ = std::max_element(room_, room_ + k_)->score;
        } else if (size_ == capacity_) {
            select();
        }
    }

    void write(float* score, std::int64_t* index) {
        select();
        std::sort(room_, room_ + k_);
        for (std::int64_t i = 0; i < k_; ++i) {
            score[i] = room_[i].score;
            index[i] = room_[i].item;
        }
    }

  private:
    void select() {
        std::nth_element(room_, room_ + (k_ - 1), room_ + size_);
        size_ = k_;
        threshold_ = room_[k_ - 1].score;
    }

    Candidate* room_;
    std::int64_t k_, capacity_, size_ = 0;
    float threshold_ = -kInfinity;
};

}  // namespace

void top_k(const Operands& o, std::int64_t k, float* score, std::int64_t* index, int threads,
           Isa isa) {
    const Kernels& kernels = kRankingKernels[isa];
    const std::int64_t capacity = std::min(k + std::max<std::int64_t>(k, 64), o.items);
    std::vector<Candidate> room(o.queries * capacity);
    std::vector<Best> best;
    best.reserve(o.queries);
    for (std::int64_t query = 0; query < o.queries; ++query) {
        best.emplace_back(k, room.data() + query * capacity, capacity);
    }
    each_strip(
        o, kernels, threads,
        [&](std::int64_t query, const float* scores, std::int64_t first, std::int64_t items) {
            Best& mine = best[query];
            std::int64_t begin = 0;
            for (; begin < items && !mine.full(); ++begin) {
                mine.offer({ranked(scores[begin]), static_cast<std::int32_t>(first + begin)});
            }
            std::int32_t where[kStrip];
            const std::int64_t found =
                kernels.above(scores + begin, items - begin, mine.threshold(), where);
            for (std::int64_t i = 0; i < found; ++i) {
                const std::int64_t at = begin + where[i];
                mine.offer({ranked(scores[at]), static_cast<std::int32_t>(first + at)});
            }
        });
    parallel_rows(o.queries, k * 16, threads, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t query = begin; query < end; ++query) {
            best[query].write(score + query * k, index + query * k);
        }
    });
}

// ---- The rank of one ---------------------------------------------------------------------------

void partner_rank(const Operands& o, const std::int64_t* partner, bool tied_behind,
                  std::int64_t* rank, int threads, Isa isa) {
    const Kernels& kernels = kRankingKernels[isa];
    // By the same kernel as all scores, so that a partner ties with itself.
    std::vector<float> own(o.queries);
    const Scratch strip(kStrip * o.width);
    for (std::int64_t query = 0; query < o.queries; ++query) {
        kernels.pack(o, partner[query], 1, strip.data());
        kernels.score(o, query, 1, strip.data(), 1, &own[query], 1);
        own[query] = ranked(own[query]);
        rank[query] = tied_behind ? 0 : 1;
    }
    each_strip(
        o, kernels, threads,
        [&](std::int64_t query, const float* scores, std::int64_t first, std::int64_t items) {
            // Items that only a greater score puts before the partner begin here.
            const std::int64_t begin =
                tied_behind ? items : std::clamp<std::int64_t>(partner[query] - first, 0, items);
            const Tally left = kernels.tally(scores, begin, own[query]);
            const Tally right = kernels.tally(scores + begin, items - begin, own[query]);
            rank[query] += left.greater + left.equal + right.greater;
        });
}

// ---- Average precision over all ranks ----------------------------------------------------------

namespace {

constexpr std::int64_t kMostBuckets = 1 << 16;  // their counts fit the second cache
constexpr std::int64_t kPerBucket = 16;         // scores, where they are spread evenly
constexpr std::int64_t kFew = 1024;             // scores that are compared rather than sorted
constexpr std::int64_t kRows = 96;              // queries of one task
constexpr std::int64_t kRowFloats = 3 << 26;    // scores that are kept at a time

// Ranks the relevant items of one query after the other, in memory of its own.
//
// Scores go into buckets, the greatest into the first. How many items are in the buckets before is
// most of an item's rank; only in buckets that have relevant items are scores compared.
class Ranker {
  public:
    Ranker(std::int64_t items, const Kernels& kernels)
        : kernels_(kernels), scores_(items + 1), hits_(ceil_div(items, 64)), bucket_(kStrip) {}

    // relevant has a bit for each of the `count` scores. Those that are finite are in
    // [least, most]; of codes they are whole numbers, and each has a bucket of its own.
    void run(const float* scores, const std::uint64_t* relevant, std::int64_t count, float least,
             float most, bool codes, std::int64_t top, double* precision) {
        last_ = codes ? static_cast<int>(most - least)
                      : static_cast<int>(
                            std::clamp(count / kPerBucket, std::int64_t{1}, kMostBuckets) - 1);
        most_ = most;
        scale_ = codes ? 1.0f : static_cast<float>(last_) / (most - least);
        count_items(scores, relevant, count);
        std::fill(hits_.begin(), hits_.end(), 0);
        if (codes) {
            for (const Found& item : found_) hit(item, item.position);
        } else {
            gather(scores, count);
            place();
        }
        sum_up(top, precision);
    }

  private:
    struct Found {  // a relevant item
        std::int32_t bucket;
        std::int32_t position;  // in the bucket, in the order of the gallery
    };

    template <class Use>
    void each_strip_of_buckets(const float* scores, std::int64_t count, Use use) {
        for (std::int64_t first = 0; first < count; first += kStrip) {
            const std::int64_t items = std::min(kStrip, count - first);
            kernels_.buckets(scores + first, items, most_, scale_, last_, bucket_.data());
            use(first, items);
        }
    }

    void count_items(const float* scores, const std::uint64_t* relevant, std::int64_t count) {
        found_.clear();
        size_.assign(last_ + 1, 0);
        each_strip_of_buckets(scores, count, [&](std::int64_t first, std::int64_t items) {
            std::int64_t i = 0;
            for (std::int64_t part = 0; part < items; part += 64) {
                std::uint64_t bits = relevant[(first + part) / 64];
                for (; bits != 0; bits &= bits - 1) {
                    const std::int64_t at = part + std::countr_zero(bits);
                    for (; i < at; ++i) ++size_[bucket_[i]];
                    found_.push_back({bucket_[at], size_[bucket_[at]]});
                }
            }
            for (; i < items; ++i) ++size_[bucket_[i]];
        });
        start_.resize(last_ + 1);
        std::exclusive_scan(size_.begin(), size_.end(), start_.begin(), 0);
    }

    // The scores of buckets that have relevant items, side by side. Those of others all go to the
    // end, where nobody reads them: cheaper than a branch that nobody can predict.
    void gather(const float* scores, std::int64_t count) {
        constexpr int kStep = 32;  // the upper half of a place is added to the lower
        next_.assign(last_ + 1, static_cast<std::uint64_t>(count));
        for (const Found& item : found_) {
            const auto start = static_cast<std::uint64_t>(start_[item.bucket]);
            next_[item.bucket] = std::uint64_t{1} << kStep | start;
        }
        each_strip_of_buckets(scores, count, [&](std::int64_t first, std::int64_t items) {
            for (std::int64_t i = 0; i < items; ++i) {
                std::uint64_t& next = next_[bucket_[i]];
                scores_[static_cast<std::uint32_t>(next)] = scores[first + i];
                next += next >> kStep;
            }
        });
    }

    void place() {
        crowded_.clear();
        for (const Found& item : found_) {
            if (size_[item.bucket] > kFew) {
                crowded_.push_back(item);
            } else {
                hit(item, kernels_.before(&scores_[start_[item.bucket]], size_[item.bucket],
                                          item.position));
            }
        }
        std::stable_sort(crowded_.begin(), crowded_.end(),
                         [](const Found& a, const Found& b) { return a.bucket < b.bucket; });
        for (auto first = crowded_.begin(); first != crowded_.end();) {
            const int bucket = first->bucket;
            sort(bucket);
            for (; first != crowded_.end() && first->bucket == bucket; ++first) {
                const Candidate own{scores_[start_[bucket] + first->position], first->position};
                hit(*first,
                    std::lower_bound(sorted_.begin(), sorted_.end(), own) - sorted_.begin());
            }
        }
    }

    // Many scores next to each other, where a few are far away, or many that are equal.
    void sort(int bucket) {
        sorted_.resize(size_[bucket]);
        for (std::int32_t i = 0; i < size_[bucket]; ++i) {
            sorted_[i] = {scores_[start_[bucket] + i], i};
        }
        if (!std::is_sorted(sorted_.begin(), sorted_.end())) {
            std::sort(sorted_.begin(), sorted_.end());
        }
    }

    void hit(const Found& item, std::int64_t before) {
        const std::int64_t rank = start_[item.bucket] + before;
        hits_[rank / 64] |= std::uint64_t{1} << rank % 64;
    }

    void sum_up(std::int64_t top, double* precision) const {
        double everywhere = 0, at_top = 0;
        std::int64_t found = 0, found_at_top = 0;
        for (std::size_t word = 0; word < hits_.size(); ++word) {
            for (std::uint64_t bits = hits_[word]; bits != 0; bits &= bits - 1) {
                const auto rank = static_cast<std::int64_t>(word) * 64 + std::countr_zero(bits) + 1;
                everywhere += static_cast<double>(++found) / static_cast<double>(rank);
                if (rank > top) continue;
                at_top = everywhere;
                found_at_top = found;
            }
        }
        const auto mean = [](double sum, std::int64_t of) {
            return sum / static_cast<double>(std::max<std::int64_t>(of, 1));
        };
        precision[0] = mean(everywhere, found);
        precision[1] = mean(at_top, found_at_top);
        precision[2] = mean(at_top, std::min(found, top));
    }

    const Kernels& kernels_;
    std::vector<float> scores_;        // bucket by bucket
    std::vector<std::uint64_t> hits_;  // a bit for each rank
    std::vector<std::int32_t> bucket_;
    std::vector<std::int32_t> size_, start_;  // of each bucket
    std::vector<std::uint64_t> next_;         // where in scores_ a bucket goes on
    std::vector<Found> found_, crowded_;
    std::vector<Candidate> sorted_;
    int last_ = 0;
    float most_ = 0, scale_ = 0;
};

}  // namespace

void average_precision(const Operands& o, const Labels& labels, std::int64_t top, double* precision,
                       int threads, Isa isa) {
    const Kernels& kernels = kRankingKernels[isa];
    const std::int64_t rows = std::clamp<std::int64_t>(kRowFloats / (o.items * threads), 1,
                                                       std::min(kRows, tile_rows(o, threads)));
    Team team(team_size(o, rows, threads));
    const std::int64_t at_once = std::min(rows * team.size(), o.queries);
    const std::int64_t words = ceil_div(o.items, 64);
    const Scratch scores(at_once * o.items);
    std::vector<std::uint64_t> relevant(at_once * words);
    std::vector<float> least(at_once), most(at_once);
    std::vector<Ranker> rankers(team.size(), Ranker(o.items, kernels));
    Block block(o, kernels);
    for (std::int64_t begin = 0; begin < o.queries; begin += at_once) {
        const std::int64_t end = std::min(begin + at_once, o.queries);
        // Of codes no distance is left out, nor a greater one possible.
        std::fill(least.begin(), least.end(), o.codes ? -32.0f * o.width : kInfinity);
        std::fill(most.begin(), most.end(), o.codes ? 0.0f : -kInfinity);
        block.sweep(begin, end, rows, team,
                    [&](std::int64_t query, std::int64_t queries, const float* strip,
                        std::int64_t first, std::int64_t items, int) {
                        float* part = scores.data() + (query - begin) * o.items + first;
                        kernels.score(o, query, queries, strip, items, part, o.items);
                        for (std::int64_t i = 0; i < queries; ++i) {
                            const std::int64_t row = query - begin + i;
                            if (!o.codes) {
                                kernels.settle(part + i * o.items, items, least[row], most[row]);
                            }
                            kernels.relevant(labels, query + i, o.items, first, items,
                                             &relevant[row * words + first / 64]);
                        }
                    });
        team.each(end - begin, [&](std::int64_t row, int thread) {
            rankers[thread].run(scores.data() + row * o.items, &relevant[row * words], o.items,
                                least[row], most[row], o.codes, top, precision + (begin + row) * 3);
        });
    }
}

}  // namespace fedsyn::ranking
