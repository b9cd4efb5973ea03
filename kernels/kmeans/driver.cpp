// Seeds and iterates: what takes time is in cpu.cpp; draws, means and empty clusters are here.
// Clients or blocks of rows are shared out to threads.
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <vector>

#include "kernels/common/parallel.h"
#include "kernels/common/scratch.h"
#include "kernels/kmeans/cpu.h"

namespace fedsyn::kmeans {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr std::int64_t kBlock = 32;  // panels of one task
constexpr std::uint32_t kLeadingBits = 0xffff0000;
constexpr double kTie = 1e-9;       // of what the worst draw leaves
constexpr double kNothing = 1e-12;  // of the squared distances to the mean
constexpr double kTiny = 1e-12;     // least norm that is divided by

// By eight sums side by side: fast, and the same for every instruction set.
template <class T>
double squared_norm(const T* row, std::int64_t width) {
    constexpr std::int64_t kSums = 8;
    double sums[kSums] = {};
    const std::int64_t whole = width - width % kSums;
    for (std::int64_t i = 0; i < whole; i += kSums) {
        for (std::int64_t j = 0; j < kSums; ++j) sums[j] += double{row[i + j]} * row[i + j];
    }
    for (std::int64_t i = whole; i < width; ++i) sums[i - whole] += double{row[i]} * row[i];
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) +
           ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

// Clusters clients one after the other, in memory of its own.
class Clustering {
  public:
    Clustering(const Arguments& a, const Kernels& kernels, Team& team)
        : a_(a),
          kernels_(kernels),
          team_(team),
          memory_((a.rows + kPanel - 1) / kPanel * kPanel * a.width),
          origin_(a.width),
          centroids_(a.count * a.width),
          near_(a.count * a.width),
          half_norms_(a.count),
          alive_(a.count),
          scratch_(team.size() * a.count * kPanel) {}

    // Whether all rows are finite, squared too; if not, there are no results.
    bool run(std::int64_t client) {
        begin(client);
        if (rows() > 0) {
            if (!center()) return false;
            seed(a_.draws + client * a_.count * a_.trials);
            iterate();
        }
        write(client);
        return true;
    }

  private:
    void begin(std::int64_t client) {
        x_ = a_.x + client * a_.rows * a_.width;
        index_.clear();
        for (std::int64_t i = 0; i < a_.rows; ++i) {
            if (a_.valid == nullptr || a_.valid[client * a_.rows + i] != 0) index_.push_back(i);
        }
        padded_ = (rows() + kPanel - 1) / kPanel * kPanel;
        points_ = {memory_.data(), rows(), a_.width};
        mass_.assign(padded_, 0.0);
        unit_.assign(rows(), 1.0);
        for (std::int64_t i = 0; i < rows(); ++i) {
            mass_[i] = a_.weight == nullptr ? 1.0 : a_.weight[client * a_.rows + index_[i]];
            if (a_.spherical) {
                unit_[i] = 1 / std::max(std::sqrt(squared_norm(at(i), a_.width)), kTiny);
            }
        }
        gap_.assign(padded_, kInfinity);
        assignment_.assign(rows(), 0);
        changed_.assign(a_.count, 1);
        std::fill(centroids_.begin(), centroids_.end(), 0.0);
        std::fill(half_norms_.begin(), half_norms_.end(), kInfinity);
        std::fill(alive_.begin(), alive_.end(), false);
    }

    // The points are the rows seen from their mean. Its last bits are cut off: numbers of few
    // digits lose none then, and their ties remain ties.
    bool center() {
        std::vector<double> sums(a_.width);
        members_.resize(rows());
        std::iota(members_.begin(), members_.end(), 0);
        kernels_.sum(units(), members_.data(), rows(), a_.width, sums.data());
        for (std::int64_t i = 0; i < a_.width; ++i) {
            const auto mean = static_cast<float>(sums[i] / static_cast<double>(rows()));
            origin_[i] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(mean) & kLeadingBits);
            if (!std::isfinite(origin_[i])) return false;
        }
        each_block([&](std::int64_t, int, std::int64_t first, std::int64_t last) {
            kernels_.pack(units(), origin_.data(), first, last, points_);
        });
        const std::vector<float> nowhere(a_.width, 0.0f);
        approach(nowhere, 1);
        spread_ = std::accumulate(shares_.begin(), shares_.end(), 0.0);
        return std::isfinite(spread_);
    }

    // Greedy k-means++, which leaves each row with its nearest seed: of a few rows drawn in
    // proportion to mass times squared distance from the seeds so far, the one that leaves the
    // least of it is the next.
    void seed(const float* draws) {
        const std::int64_t trials = a_.trials;
        std::vector<float> tried(trials * a_.width);
        std::vector<std::int64_t> drawn(trials);
        std::vector<double> sums(trials);
        std::vector<double> share(
            panels());  // of each panel in what the draws are in proportion to
        for (std::int64_t i = 0; i < padded_; ++i) share[i / kPanel] += mass_[i];
        for (std::int64_t k = 0; k < a_.count; ++k) {
            const double total = std::accumulate(share.begin(), share.end(), 0.0);
            // Else no row is left that differs from the seeds, nor will one be.
            if (!(total > (k == 0 ? 0 : kNothing * spread_))) return;
            for (std::int64_t t = 0; t < trials; ++t) {
                drawn[t] = draw(draws[k * trials + t] * total, share, k == 0);
                kernels_.see(units(), origin_.data(), drawn[t], a_.width, &tried[t * a_.width]);
            }
            approach(tried, trials);
            for (std::int64_t t = 0; t < trials; ++t) {
                const auto first = shares_.begin() + t * panels();
                sums[t] = std::accumulate(first, first + panels(), 0.0);
            }
            const std::int64_t best = first_least(sums);
            const float* left = &left_[best * padded_];
            const float* gap = gap_.data();
            std::int32_t* nearest = assignment_.data();
            const auto number = static_cast<std::int32_t>(k);
            for (std::int64_t i = 0; i < rows(); ++i) {
                nearest[i] = left[i] < gap[i] ? number : nearest[i];
            }
            std::copy_n(left, padded_, gap_.begin());
            std::copy_n(shares_.begin() + best * panels(), panels(), share.begin());
            place(k, drawn[best]);
            alive_[k] = true;
            move(k);
        }
    }

    void iterate() {
        factor_.resize(rows());
        for (std::int64_t i = 0; i < rows(); ++i) factor_[i] = mass_[i] * unit_[i];
        totals_.assign(a_.count, 0.0);
        before_.assign(rows(), -1);
        for (std::int64_t iteration = 1; iteration < a_.iterations; ++iteration) {
            update();
            before_ = assignment_;
            if (!assign()) return;
        }
        update();
    }

    bool assign() {
        std::atomic<bool> any = false;
        each_block([&](std::int64_t, int thread, std::int64_t begin, std::int64_t end) {
            if (kernels_.assign(points_, near_.data(), half_norms_.data(), a_.count,
                                &scratch_[thread * a_.count * kPanel], assignment_.data(), begin,
                                end)) {
                any = true;
            }
        });
        return any;
    }

    void write(std::int64_t client) const {
        std::int64_t* assignment = a_.assignment + client * a_.rows;
        std::int64_t* counts = a_.counts + client * a_.count;
        float* centroids = a_.centroids + client * a_.count * a_.width;
        std::fill_n(assignment, a_.rows, -1);
        std::fill_n(counts, a_.count, 0);
        for (std::int64_t i = 0; i < rows(); ++i) {
            assignment[index_[i]] = assignment_[i];
            ++counts[assignment_[i]];
        }
        for (std::int64_t k = 0; k < a_.count; ++k) {
            const bool exists = alive_[k] && counts[k] > 0;
            for (std::int64_t i = k * a_.width; i < (k + 1) * a_.width; ++i) {
                centroids[i] = exists ? static_cast<float>(centroids_[i]) : 0.0f;
            }
        }
    }

    std::int64_t rows() const { return static_cast<std::int64_t>(index_.size()); }
    std::int64_t panels() const { return padded_ / kPanel; }
    std::int64_t blocks() const { return (panels() + kBlock - 1) / kBlock; }
    Rows units() const { return {x_, index_.data(), unit_.data()}; }
    const float* at(std::int64_t row) const { return x_ + index_[row] * a_.width; }
    float moved(std::int64_t row, std::int64_t k) const {
        return points_.panels[(row / kPanel * a_.width + k) * kPanel + row % kPanel];
    }

    // Calls body(block, thread, begin, end) for the panels of each block.
    template <class Body>
    void each_block(Body body) {
        team_.each(blocks(), [&](std::int64_t block, int thread) {
            body(block, thread, block * kBlock, std::min((block + 1) * kBlock, panels()));
        });
    }

    // What each of a few seeds would leave, row by row (left_) and summed by panels (shares_).
    void approach(const std::vector<float>& seeds, std::int64_t trials) {
        left_.resize(trials * padded_);
        shares_.resize(trials * panels());
        each_block([&](std::int64_t, int, std::int64_t begin, std::int64_t end) {
            kernels_.approach(points_, seeds.data(), trials, gap_.data(), mass_.data(),
                              left_.data(), shares_.data(), begin, end);
        });
    }

    // The first row up to which there is more than `bound` of mass times gap, or of mass.
    std::int64_t draw(double bound, const std::vector<double>& share, bool mass_alone) const {
        double sum = 0;
        std::int64_t panel = 0;
        while (panel < panels() - 1 && !(sum + share[panel] > bound)) sum += share[panel++];
        std::int64_t row = panel * kPanel;
        const std::int64_t last = std::min(row + kPanel, rows()) - 1;
        for (; row < last; ++row) {
            sum += mass_alone ? mass_[row] : mass_[row] * gap_[row];
            if (sum > bound) break;
        }
        return row;
    }

    // Two rows that are each other's nearest leave the same, whichever becomes the seed. Such ties
    // go to the first draw: were rounding to decide, it would let the order of sums decide.
    static std::int64_t first_least(const std::vector<double>& sums) {
        const auto [least, most] = std::minmax_element(sums.begin(), sums.end());
        const double bound = *least + kTie * *most;
        std::int64_t first = 0;
        while (first < least - sums.begin() && !(sums[first] <= bound)) ++first;
        return first;
    }

    // Makes a row the centroid of cluster k.
    void place(std::int64_t k, std::int64_t row) {
        for (std::int64_t i = 0; i < a_.width; ++i) {
            centroids_[k * a_.width + i] = at(row)[i] * unit_[row];
        }
    }

    // Clusters that no row joined or left stay as they are.
    void update() {
        std::fill(changed_.begin(), changed_.end(), 0);
        for (std::int64_t i = 0; i < rows(); ++i) {
            if (assignment_[i] == before_[i]) continue;
            changed_[assignment_[i]] = 1;
            if (before_[i] >= 0) changed_[before_[i]] = 1;
        }
        sort_by_cluster();
        const Rows weighted{x_, index_.data(), factor_.data()};
        team_.each(a_.count, [&](std::int64_t k, int) {
            if (changed_[k] == 0) return;
            const std::int32_t* members = &members_[start_[k]];
            const std::int64_t count = start_[k + 1] - start_[k];
            kernels_.sum(weighted, members, count, a_.width, &centroids_[k * a_.width]);
            totals_[k] = 0;
            for (std::int64_t i = 0; i < count; ++i) totals_[k] += mass_[members[i]];
            if (totals_[k] > 0) average(k);
        });
        std::vector<double> own;
        for (std::int64_t k = 0; k < a_.count; ++k) {
            if (totals_[k] == 0 && alive_[k]) {
                // The row farthest from its centroid; the next empty cluster takes another.
                if (own.empty()) own = own_distances();
                const auto farthest = std::max_element(own.begin(), own.end()) - own.begin();
                place(k, farthest);
                own[farthest] = 0;
                changed_[k] = 1;
            }
        }
        for (std::int64_t k = 0; k < a_.count; ++k) {
            if (changed_[k] != 0) move(k);
        }
    }

    // The members of each cluster side by side, in their order.
    void sort_by_cluster() {
        start_.assign(a_.count + 1, 0);
        for (const std::int32_t k : assignment_) ++start_[k + 1];
        std::partial_sum(start_.begin(), start_.end(), start_.begin());
        std::vector<std::int64_t> next(start_.begin(), start_.end() - 1);
        for (std::int64_t i = 0; i < rows(); ++i) {
            members_[next[assignment_[i]]++] = static_cast<std::int32_t>(i);
        }
    }

    void average(std::int64_t k) {
        double* centroid = &centroids_[k * a_.width];
        const double share = 1 / totals_[k];
        for (std::int64_t i = 0; i < a_.width; ++i) centroid[i] *= share;
        if (!a_.spherical) return;
        const double unit = 1 / std::max(std::sqrt(squared_norm(centroid, a_.width)), kTiny);
        for (std::int64_t i = 0; i < a_.width; ++i) centroid[i] *= unit;
    }

    // Puts a centroid where the points are, if any is to come near it.
    void move(std::int64_t k) {
        if (!alive_[k]) return;
        float* near = &near_[k * a_.width];
        for (std::int64_t i = 0; i < a_.width; ++i) {
            near[i] = static_cast<float>(centroids_[k * a_.width + i] - origin_[i]);
        }
        half_norms_[k] = static_cast<float>(squared_norm(near, a_.width) / 2);
    }

    // Of each row with mass to the centroid that it was assigned to.
    std::vector<double> own_distances() const {
        std::vector<double> own(rows(), 0.0);
        for (std::int64_t i = 0; i < rows(); ++i) {
            if (mass_[i] == 0) continue;
            const float* centroid = &near_[assignment_[i] * a_.width];
            for (std::int64_t k = 0; k < a_.width; ++k) {
                const double difference = double{moved(i, k)} - centroid[k];
                own[i] += difference * difference;
            }
        }
        return own;
    }

    const Arguments& a_;
    const Kernels& kernels_;
    Team& team_;
    Scratch memory_;
    Points points_{};

    // Of each row that exists; padded_ is their number rounded up to whole panels.
    const float* x_ = nullptr;
    std::int64_t padded_ = 0;
    std::vector<std::int64_t> index_;
    std::vector<double> mass_;    // [padded_], zero behind the last row
    std::vector<double> unit_;    // what makes it a unit row, if it is to be one
    std::vector<double> factor_;  // mass times that
    std::vector<std::int32_t> assignment_, before_;
    std::vector<std::int32_t> members_;  // the rows sorted by cluster
    std::vector<float> gap_;             // [padded_], squared distance to the nearest seed
    std::vector<float> left_;            // [trials, padded_], the same if another were added
    std::vector<double> shares_;         // [trials, panels], its sums by mass
    double spread_ = 0;                  // squared distances to the mean, by mass

    // Of each cluster.
    std::vector<float> origin_;  // about the mean of the rows
    std::vector<double> centroids_;
    std::vector<float> near_, half_norms_;  // centroids less origin_
    std::vector<double> totals_;            // mass
    std::vector<std::uint8_t> changed_;     // whether a row joined or left it
    std::vector<std::int64_t> start_;       // [count + 1], of its members
    std::vector<bool> alive_;               // whether it got a seed
    std::vector<float> scratch_;
};

struct Alone {
    Alone(const Arguments& a, const Kernels& kernels) : clustering(a, kernels, team) {}
    Team team{1};
    Clustering clustering;
};

// Fewest multiplications worth a thread: of a client's whole clustering, and of one step of it.
constexpr std::int64_t kClientGrain = std::int64_t{1} << 19;
constexpr std::int64_t kStepGrain = std::int64_t{1} << 23;

}  // namespace

std::int64_t cluster(const Arguments& a, int threads, Isa isa) {
    const Kernels& kernels = kKmeansKernels[isa];
    std::vector<char> refused(a.clients, 0);
    const std::int64_t step = a.rows * a.width * a.count;
    const auto most = [&](std::int64_t worthwhile) {
        return static_cast<int>(std::clamp<std::int64_t>(worthwhile, 1, threads));
    };
    if (a.clients >= threads || step < 2 * kStepGrain) {
        Team team(most(std::min(a.clients, a.clients * step / kClientGrain)));
        // Each thread has one, made when it takes its first client.
        std::vector<std::unique_ptr<Alone>> clusterings(team.size());
        team.each(a.clients, [&](std::int64_t client, int thread) {
            auto& mine = clusterings[thread];
            if (!mine) mine = std::make_unique<Alone>(a, kernels);
            refused[client] = !mine->clustering.run(client);
        });
    } else {
        Team team(most(step / kStepGrain));
        Clustering clustering(a, kernels, team);
        for (std::int64_t client = 0; client < a.clients; ++client) {
            refused[client] = !clustering.run(client);
        }
    }
    const auto first = std::find(refused.begin(), refused.end(), 1);
    return first == refused.end() ? -1 : first - refused.begin();
}

}  // namespace fedsyn::kmeans
