// fedsyn._C: the compiled kernels behind fedsyn.ops. No mathematics, one file an operator.
#include "csrc/binding.h"

namespace {

namespace py = pybind11;

py::tuple cpu_isas() {
    py::list names;
    for (const fedsyn::Isa isa : fedsyn::available_isas()) names.append(fedsyn::name(isa));
    return py::tuple(names);
}

#ifdef FEDSYN_WITH_CUDA
constexpr bool kCudaCompiled = true;
#else
constexpr bool kCudaCompiled = false;
#endif

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Compiled kernels of fedsyn.ops; addresses and streams are integers.";
    m.def("cpu_isas", &cpu_isas, "Instruction sets that build and processor have, best first.");
    m.def(
        "cpu_isa", [] { return fedsyn::name(fedsyn::available_isas().front()); },
        "The instruction set that the CPU kernels use.");
    m.def("cuda_compiled", [] { return kCudaCompiled; }, "Whether the CUDA kernels were built.");
    fedsyn::binding::define_info_nce(m);
    fedsyn::binding::define_gradient_penalty(m);
    fedsyn::binding::define_js_divergence(m);
    fedsyn::binding::define_kmeans(m);
    fedsyn::binding::define_mlp(m);
    fedsyn::binding::define_local_training(m);
    fedsyn::binding::define_prototype_nce(m);
    fedsyn::binding::define_js_filter(m);
    fedsyn::binding::define_js_nearest(m);
    fedsyn::binding::define_ranking(m);
#ifdef FEDSYN_WITH_CUDA
    fedsyn::binding::define_gradient_penalty_cuda(m);
    fedsyn::binding::define_kmeans_cuda(m);
    fedsyn::binding::define_prototype_nce_cuda(m);
#endif
}
