// What the bindings of all operators share: addresses, checks of arguments, NVTX ranges.
//
// Addresses and streams arrive as integers and outputs are allocated by the caller, so the module
// links neither torch nor Python objects beyond numbers and strings.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/common/isa.h"

#ifdef FEDSYN_WITH_CUDA
#include <nvtx3/nvtx3.hpp>

#include "kernels/common/cuda_api.h"
#define FEDSYN_RANGE(label) const nvtx3::scoped_range range(label)
#else
#define FEDSYN_RANGE(label)
#endif

namespace fedsyn::binding {

namespace py = pybind11;
using namespace pybind11::literals;

using Address = std::uintptr_t;

template <class T>
T* at(Address address) {
    return reinterpret_cast<T*>(address);
}

inline void check_least(const char* name, std::int64_t value, std::int64_t least) {
    if (value < least) {
        throw std::invalid_argument(std::string(name) + " is " + std::to_string(value) +
                                    ", expected >= " + std::to_string(least));
    }
}

// Refuses null addresses unless there is nothing to do.
template <class... Addresses>
void check_addresses(std::int64_t work, Addresses... addresses) {
    if (work > 0 && !(... && (addresses != 0))) {
        throw std::invalid_argument("an address is null, expected contiguous memory");
    }
}

inline Isa check_cpu(int threads, const std::string& isa) {
    check_least("threads", threads, 1);
    const auto found = find_isa(isa);
    if (!found) {
        throw std::invalid_argument("instruction set '" + isa +
                                    "' is unknown or not available here; see cpu_isas()");
    }
    return *found;
}

#ifdef FEDSYN_WITH_CUDA
inline void check_launch(int code, const char* operation) {
    if (code != 0) {
        throw std::runtime_error(std::string(operation) +
                                 " could not be launched: " + fedsyn_cuda_error_string(code) +
                                 " (CUDA error " + std::to_string(code) + ")");
    }
}
#endif

// Each adds its operator's functions to the module; defined in the file of that name.
void define_info_nce(py::module_& m);
void define_gradient_penalty(py::module_& m);
void define_js_divergence(py::module_& m);
void define_kmeans(py::module_& m);
void define_mlp(py::module_& m);
void define_local_training(py::module_& m);
void define_prototype_nce(py::module_& m);
void define_js_filter(py::module_& m);
void define_js_nearest(py::module_& m);
void define_ranking(py::module_& m);
#ifdef FEDSYN_WITH_CUDA
void define_gradient_penalty_cuda(py::module_& m);
void define_kmeans_cuda(py::module_& m);
void define_prototype_nce_cuda(py::module_& m);
#endif

}  // namespace fedsyn::binding
