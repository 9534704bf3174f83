// CPUs as the entries of conv2d.h, relu.h and max_pool2d.h see them; cuda_device.h has the same for GPUs.
#pragma once

#include <chrono>
#include <string>
#include <tuple>

#include "../cpu/dispatch.h"
#include "tensors.h"
#include "types.h"

namespace fastconv::python {

// The threads that a call may use: one in a forked child. Throws std::invalid_argument.
int usable_threads(int64_t threads);

class Cpu {
public:
    static constexpr const char* prefix = "";  // of the entries' names
    static constexpr Strides strides = Strides::any;
    static constexpr size_t alignment = 64;  // of a workspace
    static constexpr bool has_stream = false;

    // The last arguments of an entry: after a call's tensors, after a convolution's, and after sizes alone.
    using CallTail = Types<int64_t>;
    using ConvTail = Types<int64_t>;
    using SizesTail = Types<int64_t>;
    static auto call_tail() { return std::make_tuple(pybind11::arg("threads")); }
    static auto conv_tail() { return call_tail(); }
    static auto sizes_tail() { return call_tail(); }

    explicit Cpu(int64_t threads) : threads_(threads) { usable_threads(threads); }

    std::string name() const { return std::string("cpu:") + cpu::kernels().name; }
    void* stream() const { return nullptr; }

    template <class Args>
    static const Implementations<Args>& implementations() {
        return cpu::implementations<Args>();
    }
    static const cpu::KernelSet& kernels() { return cpu::kernels(); }
    static int64_t pool_code_bytes(const Conv2dProblem& problem) { return problem.conv.K; }

    void complete(Conv2dProblem& problem) const { problem.threads = usable_threads(threads_); }
    static std::string refuse(const Conv2dProblem&) { return ""; }

    // Calls run(threads) without the GIL.
    template <class Run>
    void run(const char*, void*, const Run& run) const {
        const int threads = usable_threads(threads_);
        pybind11::gil_scoped_release release;
        run(threads);
    }

    class Timer {
    public:
        explicit Timer(int) {}
        double stop() const {  // microseconds
            return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start_).count();
        }

    private:
        std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
    };

private:
    int64_t threads_;
};

}  // namespace fastconv::python
