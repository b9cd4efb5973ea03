// Working memory of a CPU kernel, aligned to cache lines and not initialised.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>

namespace fedsyn {

class Scratch {
  public:
    explicit Scratch(std::int64_t floats)
        : memory_(static_cast<float*>(std::aligned_alloc(kLine, bytes(floats)))) {
        if (!memory_) throw std::bad_alloc();
    }
    float* data() const { return memory_.get(); }

  private:
    struct Free {
        void operator()(float* memory) const { std::free(memory); }
    };
    static constexpr std::size_t kLine = 64;
    static std::size_t bytes(std::int64_t floats) {
        return (static_cast<std::size_t>(floats) * sizeof(float) / kLine + 1) * kLine;
    }
    std::unique_ptr<float, Free> memory_;
};

}  // namespace fedsyn
