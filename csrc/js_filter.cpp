#include "kernels/js_filter/cpu.h"

#include <cmath>

#include "csrc/binding.h"

#ifdef FEDSYN_WITH_CUDA
#include "kernels/js_divergence/cuda.h"
#endif

namespace fedsyn::binding {
namespace {

void check_problem(std::int64_t rows, std::int64_t clients, std::int64_t prototypes,
                   std::int64_t width, float scale) {
    check_least("rows", rows, 0);
    check_least("clients", clients, 1);
    check_least("prototypes", prototypes, 1);
    check_least("width", width, 1);
    if (!std::isfinite(scale)) throw std::invalid_argument("scale is not finite");
}

void filter(const js_filter::Problem& problem, Address divergence, Address client,
            Address assignment, int threads, const std::string& isa) {
    check_problem(problem.rows, problem.clients, problem.prototypes, problem.width, problem.scale);
    const Isa chosen = check_cpu(threads, isa);
    if (problem.rows == 0) return;
    const py::gil_scoped_release release;
    js_filter::filter(problem, at<float>(divergence), at<std::int64_t>(client),
                      at<std::int64_t>(assignment), threads, chosen);
}

void assign_cpu(Address x, Address y, Address prototypes_x, Address prototypes_y, Address valid,
                Address divergence, Address assignment, std::int64_t rows, std::int64_t prototypes,
                std::int64_t width, float scale, int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::js_assign cpu");
    check_addresses(rows, x, y, prototypes_x, prototypes_y, divergence, assignment);
    filter(
        {at<const float>(x), at<const float>(y), at<const float>(prototypes_x),
         at<const float>(prototypes_y), at<const bool>(valid), rows, 1, prototypes, width, scale},
        divergence, 0, assignment, threads, isa);
}

void filter_cpu(Address x, Address y, Address prototypes_x, Address prototypes_y, Address valid,
                Address divergence, Address client, Address assignment, std::int64_t rows,
                std::int64_t clients, std::int64_t prototypes, std::int64_t width, float scale,
                int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::js_filter cpu");
    check_addresses(rows, x, y, prototypes_x, prototypes_y, divergence, client, assignment);
    filter({at<const float>(x), at<const float>(y), at<const float>(prototypes_x),
            at<const float>(prototypes_y), at<const bool>(valid), rows, clients, prototypes, width,
            scale},
           divergence, client, assignment, threads, isa);
}

#ifdef FEDSYN_WITH_CUDA
void assign_cuda(Address x, Address y, Address prototypes_x, Address prototypes_y, Address valid,
                 Address divergence, Address assignment, std::int64_t rows, std::int64_t prototypes,
                 std::int64_t width, float scale, Address stream) {
    FEDSYN_RANGE("fedsyn::js_assign cuda");
    check_problem(rows, 1, prototypes, width, scale);
    check_addresses(rows, x, y, prototypes_x, prototypes_y, divergence, assignment);
    const py::gil_scoped_release release;
    check_launch(
        fedsyn_js_assign_f32(at<const float>(x), at<const float>(y), at<const float>(prototypes_x),
                             at<const float>(prototypes_y), scale, at<const std::uint8_t>(valid),
                             at<float>(divergence), at<std::int64_t>(assignment), rows, prototypes,
                             width, at<void>(stream)),
        "js_assign");
}

void filter_cuda(Address x, Address y, Address prototypes_x, Address prototypes_y, Address valid,
                 Address divergence, Address client, Address assignment, std::int64_t rows,
                 std::int64_t clients, std::int64_t prototypes, std::int64_t width, float scale,
                 Address stream) {
    FEDSYN_RANGE("fedsyn::js_filter cuda");
    check_problem(rows, clients, prototypes, width, scale);
    check_addresses(rows, x, y, prototypes_x, prototypes_y, divergence, client, assignment);
    const py::gil_scoped_release release;
    check_launch(fedsyn_js_filter_f32(at<const float>(x), at<const float>(y),
                                      at<const float>(prototypes_x), at<const float>(prototypes_y),
                                      scale, at<const std::uint8_t>(valid), at<float>(divergence),
                                      at<std::int64_t>(client), at<std::int64_t>(assignment), rows,
                                      clients, prototypes, width, at<void>(stream)),
                 "js_filter");
}

#endif

}  // namespace

void define_js_filter(py::module_& m) {
    m.def("js_assign_cpu_float32", &assign_cpu, "x"_a, "y"_a, "prototypes_x"_a, "prototypes_y"_a,
          "valid"_a, "divergence"_a, "assignment"_a, "rows"_a, "prototypes"_a, "width"_a, "scale"_a,
          "threads"_a = 1, "isa"_a = "");
    m.def("js_filter_cpu_float32", &filter_cpu, "x"_a, "y"_a, "prototypes_x"_a, "prototypes_y"_a,
          "valid"_a, "divergence"_a, "client"_a, "assignment"_a, "rows"_a, "clients"_a,
          "prototypes"_a, "width"_a, "scale"_a, "threads"_a = 1, "isa"_a = "");
#ifdef FEDSYN_WITH_CUDA
    m.def("js_assign_cuda_float32", &assign_cuda, "x"_a, "y"_a, "prototypes_x"_a, "prototypes_y"_a,
          "valid"_a, "divergence"_a, "assignment"_a, "rows"_a, "prototypes"_a, "width"_a, "scale"_a,
          "stream"_a);
    m.def("js_filter_cuda_float32", &filter_cuda, "x"_a, "y"_a, "prototypes_x"_a, "prototypes_y"_a,
          "valid"_a, "divergence"_a, "client"_a, "assignment"_a, "rows"_a, "clients"_a,
          "prototypes"_a, "width"_a, "scale"_a, "stream"_a);
#endif
}

}  // namespace fedsyn::binding
