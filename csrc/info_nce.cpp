#include "csrc/binding.h"
#include "kernels/info_nce/cpu.h"

namespace fedsyn::binding {
namespace {

template <class T>
info_nce::Problem<T> problem(Address x, Address y, Address scale, Address valid,
                             std::int64_t clients, std::int64_t m, std::int64_t n,
                             std::int64_t width, std::int64_t offset) {
    check_least("clients", clients, 0);
    check_least("m", m, 0);
    check_least("n", n, 0);
    check_least("width", width, 1);
    if (valid && (m != n || offset != 0)) {
        throw std::invalid_argument("valid rows need as many rows as columns and offset 0");
    }
    check_addresses(clients * m, x, scale);
    check_addresses(clients * n, y, scale);
    return {at<const T>(x),
            at<const T>(y),
            at<const float>(scale),
            at<const bool>(valid),
            clients,
            m,
            n,
            width,
            offset};
}

template <class T>
void forward_cpu(Address x, Address y, Address scale, Address valid, Address rows, Address columns,
                 Address loss, std::int64_t clients, std::int64_t m, std::int64_t n,
                 std::int64_t width, std::int64_t offset, int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::info_nce cpu");
    const auto of = problem<T>(x, y, scale, valid, clients, m, n, width, offset);
    if (loss && (m != n || offset != 0)) {
        throw std::invalid_argument("the loss needs as many rows as columns and offset 0");
    }
    check_addresses(clients * m, rows);
    check_addresses(clients * n, columns);
    const Isa chosen = check_cpu(threads, isa);
    const py::gil_scoped_release release;
    info_nce::forward(of, at<float>(rows), at<float>(columns), at<float>(loss), threads, chosen);
}

template <class T>
void backward_cpu(Address grad, Address x, Address y, Address scale, Address valid, Address rows,
                  Address columns, Address dx, Address dy, Address dscale, std::int64_t clients,
                  std::int64_t m, std::int64_t n, std::int64_t width, std::int64_t offset,
                  int threads, const std::string& isa) {
    FEDSYN_RANGE("fedsyn::info_nce_backward cpu");
    const auto of = problem<T>(x, y, scale, valid, clients, m, n, width, offset);
    check_addresses(clients, grad, dscale);
    check_addresses(clients * m, rows, dx);
    check_addresses(clients * n, columns, dy);
    const Isa chosen = check_cpu(threads, isa);
    const py::gil_scoped_release release;
    info_nce::backward(of, at<const float>(grad), at<const float>(rows), at<const float>(columns),
                       at<T>(dx), at<T>(dy), at<float>(dscale), threads, chosen);
}

template <class T>
void define_cpu(py::module_& m, const std::string& type) {
    m.def(("info_nce_cpu_" + type).c_str(), &forward_cpu<T>, "x"_a, "y"_a, "scale"_a, "valid"_a,
          "rows"_a, "columns"_a, "loss"_a, "clients"_a, "m"_a, "n"_a, "width"_a, "offset"_a,
          "threads"_a = 1, "isa"_a = "");
    m.def(("info_nce_backward_cpu_" + type).c_str(), &backward_cpu<T>, "grad"_a, "x"_a, "y"_a,
          "scale"_a, "valid"_a, "rows"_a, "columns"_a, "dx"_a, "dy"_a, "dscale"_a, "clients"_a,
          "m"_a, "n"_a, "width"_a, "offset"_a, "threads"_a = 1, "isa"_a = "");
}

}  // namespace

void define_info_nce(py::module_& m) {
    define_cpu<float>(m, "float32");
    define_cpu<Bfloat16>(m, "bfloat16");
}

}  // namespace fedsyn::binding
