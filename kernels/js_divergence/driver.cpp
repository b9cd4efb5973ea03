// Shares the rows out to threads.
#include <type_traits>

#include "kernels/common/parallel.h"
#include "kernels/js_divergence/cpu.h"

namespace fedsyn::js_divergence {
namespace {

template <class T>
const Kernels<T>& kernels_of(Isa isa) {
    if constexpr (std::is_same_v<T, float>) {
        return kJsDivergenceKernels[isa];
    } else {
        return kJsDivergenceFloat64Kernels[isa];
    }
}

}  // namespace

template <class T>
void forward(const T* p, const T* q, T* out, std::int64_t rows, std::int64_t k, int threads,
             Isa isa) {
    const auto kernel = kernels_of<T>(isa).forward;
    parallel_rows(rows, k, threads, [=](std::int64_t begin, std::int64_t end) {
        kernel(p + begin * k, q + begin * k, out + begin, end - begin, k);
    });
}

template <class T>
void backward(const T* grad, const T* p, const T* q, T* grad_p, T* grad_q, std::int64_t rows,
              std::int64_t k, int threads, Isa isa) {
    const auto kernel = kernels_of<T>(isa).backward;
    parallel_rows(rows, k, threads, [=](std::int64_t begin, std::int64_t end) {
        const std::int64_t at = begin * k;
        kernel(grad + begin, p + at, q + at, grad_p + at, grad_q + at, end - begin, k);
    });
}

template void forward(const float*, const float*, float*, std::int64_t, std::int64_t, int, Isa);
template void forward(const double*, const double*, double*, std::int64_t, std::int64_t, int, Isa);
template void backward(const float*, const float*, const float*, float*, float*, std::int64_t,
                       std::int64_t, int, Isa);
template void backward(const double*, const double*, const double*, double*, double*, std::int64_t,
                       std::int64_t, int, Isa);

}  // namespace fedsyn::js_divergence
