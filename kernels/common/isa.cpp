#include "kernels/common/isa.h"

namespace fedsyn {

std::string_view name(Isa isa) {
#define FEDSYN_NAME(entry, ...) \
    if (isa == Isa::entry) return #entry;
    FEDSYN_ISAS(FEDSYN_NAME)
#undef FEDSYN_NAME
    return {};
}

const std::vector<Isa>& available_isas() {
    static const std::vector<Isa> isas = [] {
#ifdef FEDSYN_X86
        __builtin_cpu_init();
#endif
        std::vector<Isa> found;
#define FEDSYN_FIND(entry, needs, ...) \
    if (needs) found.push_back(Isa::entry);
        FEDSYN_ISAS(FEDSYN_FIND)
#undef FEDSYN_FIND
        return found;
    }();
    return isas;
}

std::optional<Isa> find_isa(std::string_view isa_name) {
    if (isa_name.empty()) return available_isas().front();
    for (const Isa isa : available_isas()) {
        if (name(isa) == isa_name) return isa;
    }
    return std::nullopt;
}

bool extends([[maybe_unused]] Extension extension, [[maybe_unused]] Isa isa) {
#define FEDSYN_EXTENDS(entry, extended, needs) \
    if (extension == Extension::entry) return isa == Isa::extended && (needs);
    FEDSYN_EXTENSIONS(FEDSYN_EXTENDS)
#undef FEDSYN_EXTENDS
    return false;
}

}  // namespace fedsyn
