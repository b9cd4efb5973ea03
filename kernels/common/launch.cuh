// What the host side of the CUDA kernels shares: packed access, alignment, launches.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace fedsyn {

// `kPack` neighbouring elements, moved by one instruction.
template <class T, int kPack>
struct alignas(sizeof(T) * kPack) Pack {
    T at[kPack];
};

// Elements of the widest pack: 16 bytes.
template <class T>
constexpr int kWidest = 16 / sizeof(T);

// Whether packs of the widest kind can be read at these addresses.
template <class... Pointers>
bool aligned(Pointers... pointers) {
    return (... && (reinterpret_cast<std::uintptr_t>(pointers) % 16 == 0));
}

__host__ __device__ constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

// Blocks of a launch; kernels loop over what is more than these.
constexpr std::int64_t kMaxBlocks = std::int64_t{1} << 20;

// Launches a one-dimensional grid for `tasks` blocks' work; without work it does nothing.
template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), std::int64_t tasks, int threads, void* stream,
                   Arguments... arguments) {
    if (tasks == 0) return cudaSuccess;
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(static_cast<unsigned>(tasks < kMaxBlocks ? tasks : kMaxBlocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = static_cast<cudaStream_t>(stream);
    return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace fedsyn
