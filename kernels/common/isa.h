// The instruction sets that the CPU kernels are compiled for, which of them this processor has, and
// which of an operator's kernels run.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

// ---- The instruction sets ----------------------------------------------------------------------
//
// A new one is an entry here and in CMakeLists.txt, which has the compiler's flags by the same
// name. The name is also the namespace of what is compiled for it (FEDSYN_ISA).

// clang-format off
#ifdef FEDSYN_X86
#define FEDSYN_HAS(feature) (__builtin_cpu_supports(feature) != 0)

// entry(name, what the processor must have, ...), best first.
#define FEDSYN_ISAS(entry, ...)                                                                    \
    entry(avx512, FEDSYN_HAS("avx512f") && FEDSYN_HAS("avx2") && FEDSYN_HAS("fma"), __VA_ARGS__)   \
    entry(avx2, FEDSYN_HAS("avx2") && FEDSYN_HAS("fma"), __VA_ARGS__)                              \
    entry(baseline, true, __VA_ARGS__)

// One instruction more, for the few operators that use it. It has no name for the caller: it takes
// the place of the instruction set that it extends where the processor has it.
// entry(name, what it extends, what the processor must have)
#define FEDSYN_EXTENSIONS(entry)                                                                   \
    entry(avx512bf16, avx512, FEDSYN_HAS("avx512bf16"))                                            \
    entry(avx512popcount, avx512, FEDSYN_HAS("avx512vpopcntdq"))

#else
#define FEDSYN_ISAS(entry, ...) entry(baseline, true, __VA_ARGS__)
#define FEDSYN_EXTENSIONS(entry)
#endif
// clang-format on

namespace fedsyn {

#define FEDSYN_ENUMERATOR(name, ...) name,
enum class Isa { FEDSYN_ISAS(FEDSYN_ENUMERATOR) };
enum class Extension { none, FEDSYN_EXTENSIONS(FEDSYN_ENUMERATOR) };
#undef FEDSYN_ENUMERATOR

inline constexpr int kIsas = static_cast<int>(Isa::baseline) + 1;  // the last

std::string_view name(Isa isa);

// What this build and this processor both have, best first.
const std::vector<Isa>& available_isas();

// The available instruction set of that name; the best one for an empty name.
std::optional<Isa> find_isa(std::string_view isa_name);

// Whether it extends that instruction set and this processor has it.
bool extends(Extension extension, Isa isa);

// ---- The kernels of an operator ----------------------------------------------------------------

template <class Kernels>
struct KernelTable {
    const Kernels* by_isa[kIsas];
    Extension extension = Extension::none;
    const Kernels* extended = nullptr;

    // Those that run where `isa`, an available one, is asked for.
    const Kernels& operator[](Isa isa) const {
        return extends(extension, isa) ? *extended : *by_isa[static_cast<int>(isa)];
    }
};

}  // namespace fedsyn

#define FEDSYN_DECLARE(isa, needs, Kernels, name) \
    namespace fedsyn::isa {                       \
    extern const Kernels name;                    \
    }
#define FEDSYN_ADDRESS(isa, needs, name) &isa::name,

// FEDSYN_KERNELS(kmeans::Kernels, kKmeansKernels) declares the constants of that type and name that
// kernels/kmeans/cpu.cpp defines in the namespace of every instruction set, and makes a table of
// them: fedsyn::kKmeansKernels[isa]. They are `extern constexpr`: were they computed when the
// module is loaded, it would be by instructions that the processor may lack.
#define FEDSYN_KERNELS(Kernels, name)                                                \
    FEDSYN_ISAS(FEDSYN_DECLARE, Kernels, name)                                       \
    namespace fedsyn {                                                               \
    inline constexpr KernelTable<Kernels> name{{FEDSYN_ISAS(FEDSYN_ADDRESS, name)}}; \
    }

// The same of an operator that is compiled for an extension too.
#ifdef FEDSYN_X86
#define FEDSYN_EXTENDED_KERNELS(Kernels, name, extension)                             \
    FEDSYN_ISAS(FEDSYN_DECLARE, Kernels, name)                                        \
    FEDSYN_DECLARE(extension, , Kernels, name)                                        \
    namespace fedsyn {                                                                \
    inline constexpr KernelTable<Kernels> name{                                       \
        {FEDSYN_ISAS(FEDSYN_ADDRESS, name)}, Extension::extension, &extension::name}; \
    }
#else
#define FEDSYN_EXTENDED_KERNELS(Kernels, name, extension) FEDSYN_KERNELS(Kernels, name)
#endif
