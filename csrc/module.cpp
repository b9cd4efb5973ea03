// fedsyn._C: argument checks, NVTX ranges and streams around the kernels; no mathematics.
//
// Addresses and streams arrive as integers and outputs are allocated by the caller, so the module
// links neither torch nor Python objects beyond numbers and strings.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/common/isa.h"
#include "kernels/js_divergence/cpu.h"

#ifdef FEDSYN_WITH_CUDA
#include <nvtx3/nvtx3.hpp>

#include "kernels/common/cuda_api.h"
#define FEDSYN_RANGE(label) const nvtx3::scoped_range range(label)
#else
#define FEDSYN_RANGE(label)
#endif

namespace py = pybind11;
using namespace pybind11::literals;

namespace {

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

void check_rows(std::int64_t rows, std::int64_t k) {
    if (rows < 0)
        throw std::invalid_argument("rows is " + std::to_string(rows) + ", expected >= 0");
    if (k < 1) throw std::invalid_argument("k is " + std::to_string(k) + ", expected >= 1");
}

template <class... Addresses>
void check_addresses(std::int64_t rows, Addresses... addresses) {
    if (rows > 0 && !(... && (addresses != 0))) {
        throw std::invalid_argument("an address is null, expected contiguous memory");
    }
}

fedsyn::Isa check_cpu(int threads, const std::string& isa) {
    if (threads < 1) {
        throw std::invalid_argument("threads is " + std::to_string(threads) + ", expected >= 1");
    }
    const auto found = fedsyn::find_isa(isa);
    if (!found) {
        throw std::invalid_argument("instruction set '" + isa +
                                    "' is unknown or not available here; see cpu_isas()");
    }
    return *found;
}

template <class T>
void js_divergence_cpu(Address p, Address q, Address out, std::int64_t rows, std::int64_t k,
                       int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::js_divergence cpu");
    check_rows(rows, k);
    check_addresses(rows, p, q, out);
    const fedsyn::Isa chosen = check_cpu(threads, isa);
    if (rows == 0) return;
    const py::gil_scoped_release release;
    fedsyn::js_divergence::forward(at<const T>(p), at<const T>(q), at<T>(out), rows, k, threads,
                                   chosen);
}

template <class T>
void js_divergence_backward_cpu(Address grad, Address p, Address q, Address grad_p, Address grad_q,
                                std::int64_t rows, std::int64_t k, int threads,
                                const std::string& isa) {
    FEDSYN_RANGE("fedsyn::js_divergence_backward cpu");
    check_rows(rows, k);
    check_addresses(rows, grad, p, q, grad_p, grad_q);
    const fedsyn::Isa chosen = check_cpu(threads, isa);
    if (rows == 0) return;
    const py::gil_scoped_release release;
    fedsyn::js_divergence::backward(at<const T>(grad), at<const T>(p), at<const T>(q),
                                    at<T>(grad_p), at<T>(grad_q), rows, k, threads, chosen);
}

template <class T>
void define_cpu(py::module_& m, const std::string& type) {
    m.def(("js_divergence_cpu_" + type).c_str(), &js_divergence_cpu<T>, "p"_a, "q"_a, "out"_a,
          "rows"_a, "k"_a, "threads"_a = 1, "isa"_a = "");
    m.def(("js_divergence_backward_cpu_" + type).c_str(), &js_divergence_backward_cpu<T>, "grad"_a,
          "p"_a, "q"_a, "grad_p"_a, "grad_q"_a, "rows"_a, "k"_a, "threads"_a = 1, "isa"_a = "");
}

#ifdef FEDSYN_WITH_CUDA
void check_launch(int code, const char* operation) {
    if (code != 0) {
        throw std::runtime_error(std::string(operation) +
                                 " could not be launched: " + fedsyn_cuda_error_string(code) +
                                 " (CUDA error " + std::to_string(code) + ")");
    }
}

template <class T, auto kernel>
void js_divergence_cuda(Address p, Address q, Address out, std::int64_t rows, std::int64_t k,
                        Address stream) {
    FEDSYN_RANGE("fedsyn::js_divergence cuda");
    check_rows(rows, k);
    check_addresses(rows, p, q, out);
    const py::gil_scoped_release release;
    check_launch(kernel(at<const T>(p), at<const T>(q), at<T>(out), rows, k, at<void>(stream)),
                 "js_divergence");
}

template <class T, auto kernel>
void js_divergence_backward_cuda(Address grad, Address p, Address q, Address grad_p, Address grad_q,
                                 std::int64_t rows, std::int64_t k, Address stream) {
    FEDSYN_RANGE("fedsyn::js_divergence_backward cuda");
    check_rows(rows, k);
    check_addresses(rows, grad, p, q, grad_p, grad_q);
    const py::gil_scoped_release release;
    check_launch(kernel(at<const T>(grad), at<const T>(p), at<const T>(q), at<T>(grad_p),
                        at<T>(grad_q), rows, k, at<void>(stream)),
                 "js_divergence_backward");
}

template <class T, auto forward, auto backward>
void define_cuda(py::module_& m, const std::string& type) {
    m.def(("js_divergence_cuda_" + type).c_str(), &js_divergence_cuda<T, forward>, "p"_a, "q"_a,
          "out"_a, "rows"_a, "k"_a, "stream"_a);
    m.def(("js_divergence_backward_cuda_" + type).c_str(),
          &js_divergence_backward_cuda<T, backward>, "grad"_a, "p"_a, "q"_a, "grad_p"_a, "grad_q"_a,
          "rows"_a, "k"_a, "stream"_a);
}
#endif

py::tuple cpu_isas() {
    py::list names;
    for (const fedsyn::Isa isa : fedsyn::available_isas()) names.append(fedsyn::name(isa));
    return py::tuple(names);
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "Compiled kernels of fedsyn.ops; addresses and streams are integers.";
    m.def("cpu_isas", &cpu_isas, "Instruction sets that build and processor have, best first.");
    m.def(
        "cpu_isa", [] { return fedsyn::name(fedsyn::available_isas().front()); },
        "The instruction set that the CPU kernels use.");
    define_cpu<float>(m, "float32");
    define_cpu<double>(m, "float64");
#ifdef FEDSYN_WITH_CUDA
    m.def("cuda_compiled", [] { return true; }, "Whether the CUDA kernels were built.");
    define_cuda<float, fedsyn_js_divergence_f32, fedsyn_js_divergence_backward_f32>(m, "float32");
    define_cuda<double, fedsyn_js_divergence_f64, fedsyn_js_divergence_backward_f64>(m, "float64");
#else
    m.def("cuda_compiled", [] { return false; }, "Whether the CUDA kernels were built.");
#endif
}
