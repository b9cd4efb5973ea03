// Compiled once per instruction set: see kernels/common/simd.h.
#include "kernels/js_divergence/cpu.h"

#include <cstdint>

#include "kernels/js_divergence/terms.h"

namespace fedsyn::FEDSYN_ISA {
namespace {

template <class T>
void forward(const T* p, const T* q, T* out, std::int64_t rows, std::int64_t k) {
    constexpr int lanes = kLanes<T>;
    constexpr std::int64_t kShortRow = 4 * lanes;
    constexpr std::int64_t kScratch = 32 * kShortRow;  // at most 8 KiB
    if (lanes == 1 || k >= kShortRow) {
        for (std::int64_t row = 0; row < rows; ++row, p += k, q += k) {
            out[row] = divergence(p, q, k);
        }
        return;
    }
    // The ends of short rows would leave most lanes idle, so the logarithms of several rows are
    // taken as of one long row, and only the sums row by row.
    alignas(sizeof(Vector<T>)) T scratch[kScratch];
    const std::int64_t rows_at_once = kScratch / k;
    for (std::int64_t row = 0; row < rows; row += rows_at_once) {
        const std::int64_t some = rows - row < rows_at_once ? rows - row : rows_at_once;
        const T* p_some = p + row * k;
        const T* q_some = q + row * k;
        for (std::int64_t i = 0; i < some * k; i += lanes) {
            const int count = static_cast<int>(some * k - i < lanes ? some * k - i : lanes);
            store(scratch + i, terms<T>(load(p_some + i, count), load(q_some + i, count)));
        }
        for (std::int64_t j = 0; j < some; ++j) {
            out[row + j] = clamp(T{0.5} * sum_over<T>(k, [&](std::int64_t i, int count) {
                                     return load(scratch + j * k + i, count);
                                 }));
        }
    }
}

template <class V>
struct Gradients {
    V p, q;
};

template <class T>
inline Gradients<Vector<T>> gradients(T half_grad, Vector<T> p, Vector<T> q) {
    using V = Vector<T>;
    const V tiny = broadcast(Constants<T>::kTiny);
    const V m = p + q;
    const V scale = T{2} / at_least(tiny, m);
    const V grad_p = half_grad * log(at_least(tiny, p * scale));
    const V grad_q = half_grad * log(at_least(tiny, q * scale));
    // m itself is the answer where it is zero, and where it is not a number.
    const V zero{};
    return {m > zero ? grad_p : m, m > zero ? grad_q : m};
}

template <class T>
void backward(const T* grad, const T* p, const T* q, T* grad_p, T* grad_q, std::int64_t rows,
              std::int64_t k) {
    constexpr int lanes = kLanes<T>;
    for (std::int64_t row = 0; row < rows; ++row, p += k, q += k, grad_p += k, grad_q += k) {
        const T half_grad = T{0.5} * grad[row];
        for (std::int64_t i = 0; i < k; i += lanes) {
            const int count = static_cast<int>(k - i < lanes ? k - i : lanes);
            const auto g = gradients<T>(half_grad, load(p + i, count), load(q + i, count));
            store(grad_p + i, g.p, count);
            store(grad_q + i, g.q, count);
        }
    }
}

}  // namespace

extern constexpr js_divergence::Kernels<float> kJsDivergenceKernels{forward<float>,
                                                                    backward<float>};
extern constexpr js_divergence::Kernels<double> kJsDivergenceFloat64Kernels{forward<double>,
                                                                            backward<double>};

}  // namespace fedsyn::FEDSYN_ISA
