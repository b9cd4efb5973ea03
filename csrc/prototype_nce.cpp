#include <cmath>

#include "csrc/binding.h"
#include "kernels/prototype_nce/cpu.h"

namespace fedsyn::binding {
namespace {

[[noreturn]] void refuse(const std::string& what) {
    throw std::invalid_argument("prototype_nce: " + what);
}

// What only a look at the values tells, and what would read beyond the memory.
void check_values(const prototype_nce::Arguments& a) {
    for (std::int64_t c = 0; a.scales != nullptr && c < a.clients; ++c) {
        if (!std::isfinite(a.scales[c])) {
            refuse("expected a finite scale, got " + std::to_string(a.scales[c]) + " for client " +
                   std::to_string(c));
        }
    }
    for (std::int64_t i = 0; i < a.clients * a.rows; ++i) {
        if (a.target[i] >= a.count) {
            refuse("expected targets below the number of prototypes, " + std::to_string(a.count) +
                   ", got " + std::to_string(a.target[i]));
        }
    }
}

void forward_cpu(Address x, Address prototypes, Address target, Address scales, float scale,
                 Address valid, Address loss, Address to_x, Address to_prototypes, Address to_scale,
                 std::int64_t clients, std::int64_t rows, std::int64_t count, std::int64_t width,
                 int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::prototype_nce cpu");
    check_least("clients", clients, 0);
    check_least("rows", rows, 0);
    check_least("count", count, 1);
    check_least("width", width, 1);
    check_addresses(clients, prototypes, loss);
    check_addresses(clients * rows, x, target);
    const Isa chosen = check_cpu(threads, isa);
    if (clients == 0) return;
    const prototype_nce::Arguments arguments{at<const float>(x),
                                             at<const float>(prototypes),
                                             at<const std::int64_t>(target),
                                             at<const float>(scales),
                                             scale,
                                             at<const std::uint8_t>(valid),
                                             at<float>(loss),
                                             at<float>(to_x),
                                             at<float>(to_prototypes),
                                             at<float>(to_scale),
                                             clients,
                                             rows,
                                             count,
                                             width};
    check_values(arguments);
    const py::gil_scoped_release release;
    prototype_nce::forward(arguments, threads, chosen);
}

}  // namespace

void define_prototype_nce(py::module_& m) {
    m.def("prototype_nce_cpu_float32", &forward_cpu, "x"_a, "prototypes"_a, "target"_a, "scales"_a,
          "scale"_a, "valid"_a, "loss"_a, "to_x"_a, "to_prototypes"_a, "to_scale"_a, "clients"_a,
          "rows"_a, "count"_a, "width"_a, "threads"_a = 1, "isa"_a = "");
}

}  // namespace fedsyn::binding
