// Chooses the instruction set and shares the rows out to threads.
#include "kernels/common/parallel.h"
#include "kernels/js_divergence/cpu.h"

// What cpu.cpp defines in the namespace of every instruction set it is compiled for.
#define FEDSYN_DECLARE(isa)                                                                        \
    namespace fedsyn::isa {                                                                        \
    template <class T>                                                                             \
    void js_divergence_forward(const T*, const T*, T*, std::int64_t, std::int64_t);                \
    template <class T>                                                                             \
    void js_divergence_backward(const T*, const T*, const T*, T*, T*, std::int64_t, std::int64_t); \
    }
FEDSYN_DECLARE(baseline)
#ifdef FEDSYN_X86
FEDSYN_DECLARE(avx2)
FEDSYN_DECLARE(avx512)
#endif
#undef FEDSYN_DECLARE

namespace fedsyn::js_divergence {

template <class T>
void forward(const T* p, const T* q, T* out, std::int64_t rows, std::int64_t k, int threads,
             Isa isa) {
    auto* kernel = &baseline::js_divergence_forward<T>;
#ifdef FEDSYN_X86
    if (isa == Isa::avx2) kernel = &avx2::js_divergence_forward<T>;
    if (isa == Isa::avx512) kernel = &avx512::js_divergence_forward<T>;
#endif
    parallel_rows(rows, k, threads, [=](std::int64_t begin, std::int64_t end) {
        kernel(p + begin * k, q + begin * k, out + begin, end - begin, k);
    });
}

template <class T>
void backward(const T* grad, const T* p, const T* q, T* grad_p, T* grad_q, std::int64_t rows,
              std::int64_t k, int threads, Isa isa) {
    auto* kernel = &baseline::js_divergence_backward<T>;
#ifdef FEDSYN_X86
    if (isa == Isa::avx2) kernel = &avx2::js_divergence_backward<T>;
    if (isa == Isa::avx512) kernel = &avx512::js_divergence_backward<T>;
#endif
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
