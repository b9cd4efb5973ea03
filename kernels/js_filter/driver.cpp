// Gathers the prototypes that exist and shares blocks of rows out to threads.
#include <algorithm>
#include <vector>

#include "kernels/common/blocks.h"
#include "kernels/js_filter/blocks.h"
#include "kernels/js_filter/cpu.h"

namespace fedsyn::js_filter {
namespace {

// The prototypes that exist, client after client; views of all of them where none can be missing.
class Existing {
  public:
    explicit Existing(const Problem& of) {
        const std::int64_t all = of.clients * of.prototypes;
        const std::int64_t there =
            of.valid == nullptr ? 0 : std::count(of.valid, of.valid + all, true);
        x_.reserve(there * of.width);
        y_.reserve(there * of.width);
        index_.reserve(there);
        for (std::int64_t c = 0; c < of.clients; ++c) {
            const std::int64_t first = c * of.prototypes;
            if (of.valid == nullptr) {
                clients_.push_back({of.prototypes_x + first * of.width,
                                    of.prototypes_y + first * of.width, nullptr, of.prototypes, c});
                continue;
            }
            Client client{x_.data() + x_.size(), y_.data() + y_.size(),
                          index_.data() + index_.size(), 0, c};
            for (std::int64_t k = 0; k < of.prototypes; ++k) {
                if (!of.valid[first + k]) continue;
                append(x_, of.prototypes_x + (first + k) * of.width, of.width);
                append(y_, of.prototypes_y + (first + k) * of.width, of.width);
                index_.push_back(k);
                ++client.count;
            }
            if (client.count > 0) clients_.push_back(client);
        }
    }

    const std::vector<Client>& clients() const { return clients_; }

  private:
    static void append(std::vector<float>& to, const float* row, std::int64_t width) {
        to.insert(to.end(), row, row + width);
    }

    std::vector<float> x_, y_;
    std::vector<std::int64_t> index_;
    std::vector<Client> clients_;
};

}  // namespace

void filter(const Problem& problem, float* divergence, std::int64_t* client,
            std::int64_t* assignment, int threads, Isa isa) {
    const Kernels& kernels = kJsFilterKernels[isa];
    const Existing existing(problem);
    const std::vector<Client>& clients = existing.clients();
    const auto count = static_cast<std::int64_t>(clients.size());
    std::int64_t most = 0, total = 0;
    for (const Client& each : clients) {
        most = std::max(most, each.count);
        total += each.count;
    }
    const std::int64_t width = problem.width;
    const std::int64_t at_once = block_rows(problem.rows, 2 * width + count);
    each_block(problem.rows, at_once, total * (width + 16), threads,
               kernels.scratch(at_once, count, most, width),
               [&](std::int64_t first, std::int64_t rows, float* scratch) {
                   const Block block{
                       problem.x + first * width, problem.y + first * width,
                       divergence + first,        client == nullptr ? nullptr : client + first,
                       assignment + first,        rows};
                   kernels.block(clients.data(), count, width, problem.scale, block, scratch);
               });
}

}  // namespace fedsyn::js_filter
