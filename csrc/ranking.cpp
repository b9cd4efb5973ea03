#include "kernels/ranking/cpu.h"

#include <limits>

#include "csrc/binding.h"

namespace fedsyn::binding {
namespace {

using ranking::Operands;

// Items are counted in 32 bits.
constexpr std::int64_t kMostItems = std::numeric_limits<std::int32_t>::max();

void check_problem(std::int64_t queries, std::int64_t items, std::int64_t width) {
    check_least("queries", queries, 0);
    check_least("items", items, 1);
    check_least("width", width, 1);
    if (items > kMostItems) {
        throw std::invalid_argument("items is " + std::to_string(items) + ", expected at most " +
                                    std::to_string(kMostItems));
    }
}

template <bool kCodes>
Operands operands(Address query, Address gallery, std::int64_t queries, std::int64_t items,
                  std::int64_t width) {
    return {at<const void>(query),
            at<const void>(gallery),
            queries,
            items,
            kCodes ? 2 * width : width,
            kCodes};
}

template <bool kCodes>
void top_k(Address query, Address gallery, Address score, Address index, std::int64_t queries,
           std::int64_t items, std::int64_t width, std::int64_t k, int threads,
           const std::string& isa) {
    FEDSYN_RANGE("fedsyn::top_k cpu");
    check_problem(queries, items, width);
    check_least("k", k, 1);
    check_least("items", items, k);
    check_addresses(queries, query, gallery, score, index);
    const Isa chosen = check_cpu(threads, isa);
    if (queries == 0) return;
    const py::gil_scoped_release release;
    ranking::top_k(operands<kCodes>(query, gallery, queries, items, width), k, at<float>(score),
                   at<std::int64_t>(index), threads, chosen);
}

// Partners must be items of the gallery: not checked.
template <bool kCodes>
void partner_rank(Address query, Address gallery, Address partner, Address rank,
                  std::int64_t queries, std::int64_t items, std::int64_t width, bool tied_behind,
                  int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::partner_rank cpu");
    check_problem(queries, items, width);
    check_addresses(queries, query, gallery, partner, rank);
    const Isa chosen = check_cpu(threads, isa);
    if (queries == 0) return;
    const py::gil_scoped_release release;
    ranking::partner_rank(operands<kCodes>(query, gallery, queries, items, width),
                          at<const std::int64_t>(partner), tied_behind, at<std::int64_t>(rank),
                          threads, chosen);
}

template <bool kCodes>
void average_precision(Address query, Address gallery, Address query_label, Address gallery_label,
                       Address precision, std::int64_t queries, std::int64_t items,
                       std::int64_t width, std::int64_t label_words, bool sets, std::int64_t top,
                       int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::average_precision cpu");
    check_problem(queries, items, width);
    check_least("label_words", label_words, 1);
    check_least("top", top, 1);
    check_addresses(queries, query, gallery, query_label, gallery_label, precision);
    const Isa chosen = check_cpu(threads, isa);
    if (queries == 0) return;
    const py::gil_scoped_release release;
    ranking::average_precision(operands<kCodes>(query, gallery, queries, items, width),
                               {at<const std::int32_t>(query_label),
                                at<const std::int32_t>(gallery_label), label_words, sets},
                               top, at<double>(precision), threads, chosen);
}

// For rows of floats, or of codes in words of 64 bits.
template <bool kCodes>
void define(py::module_& m, const std::string& suffix) {
    m.def(("top_k_cpu_" + suffix).c_str(), &top_k<kCodes>, "query"_a, "gallery"_a, "score"_a,
          "index"_a, "queries"_a, "items"_a, "width"_a, "k"_a, "threads"_a = 1, "isa"_a = "");
    m.def(("partner_rank_cpu_" + suffix).c_str(), &partner_rank<kCodes>, "query"_a, "gallery"_a,
          "partner"_a, "rank"_a, "queries"_a, "items"_a, "width"_a, "tied_behind"_a,
          "threads"_a = 1, "isa"_a = "");
    m.def(("average_precision_cpu_" + suffix).c_str(), &average_precision<kCodes>, "query"_a,
          "gallery"_a, "query_label"_a, "gallery_label"_a, "precision"_a, "queries"_a, "items"_a,
          "width"_a, "label_words"_a, "sets"_a, "top"_a, "threads"_a = 1, "isa"_a = "");
}

}  // namespace

void define_ranking(py::module_& m) {
    define<false>(m, "float32");
    define<true>(m, "int64");
}

}  // namespace fedsyn::binding
