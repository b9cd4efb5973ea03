#include "kernels/common/isa.h"

namespace fedsyn {

std::string_view name(Isa isa) {
    switch (isa) {
        case Isa::avx512:
            return "avx512";
        case Isa::avx2:
            return "avx2";
        case Isa::baseline:
            break;
    }
    return "baseline";
}

const std::vector<Isa>& available_isas() {
    static const std::vector<Isa> isas = [] {
        std::vector<Isa> found;
#ifdef FEDSYN_X86
        __builtin_cpu_init();
        const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        if (avx2 && __builtin_cpu_supports("avx512f")) found.push_back(Isa::avx512);
        if (avx2) found.push_back(Isa::avx2);
#endif
        found.push_back(Isa::baseline);
        return found;
    }();
    return isas;
}

bool has_bfloat16() {
#ifdef FEDSYN_X86
    static const bool has = [] {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx512bf16") != 0;
    }();
    return has;
#else
    return false;
#endif
}

bool has_popcount() {
#ifdef FEDSYN_X86
    static const bool has = [] {
        __builtin_cpu_init();
        return __builtin_cpu_supports("avx512vpopcntdq") != 0;
    }();
    return has;
#else
    return false;
#endif
}

std::optional<Isa> find_isa(std::string_view isa_name) {
    if (isa_name.empty()) return available_isas().front();
    for (const Isa isa : available_isas()) {
        if (name(isa) == isa_name) return isa;
    }
    return std::nullopt;
}

}  // namespace fedsyn
