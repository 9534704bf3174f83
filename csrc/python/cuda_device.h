// GPUs as the entries of conv2d.h, relu.h and max_pool2d.h see them; cpu_device.h has the same for CPUs. The emulated
// kernels of the tests are called through it too.
#pragma once

#include <stdexcept>
#include <string>
#include <tuple>

#include "../cuda/codes.h"
#include "../cuda/dispatch.h"
#include "../cuda/kernels.h"
#include "../simt/device.h"
#include "tensors.h"
#include "types.h"
#include "verbose.h"

namespace fastconv::python {

// A device's number. Throws std::invalid_argument.
int checked_device(int64_t device);

class Cuda {
public:
    static constexpr const char* prefix = "cuda_";  // of the entries' names
    static constexpr Strides strides = Strides::dense;
    static constexpr size_t alignment = 256;  // of a workspace
    static constexpr bool has_stream = true;

    // The last arguments of an entry: after a call's tensors, after a convolution's, and after sizes alone.
    using CallTail = Types<int64_t, uintptr_t>;
    using ConvTail = Types<int64_t, uintptr_t, bool>;
    using SizesTail = Types<bool>;
    static auto call_tail() { return std::make_tuple(pybind11::arg("device"), pybind11::arg("stream")); }
    static auto sizes_tail() { return std::make_tuple(pybind11::arg("tf32")); }
    static auto conv_tail() { return std::tuple_cat(call_tail(), sizes_tail()); }

    Cuda(int64_t device, uintptr_t stream, bool tf32 = false)
        : device_(checked_device(device)), stream_(reinterpret_cast<simt::Stream>(stream)), tf32_(tf32) {}
    explicit Cuda(bool tf32) : Cuda(0, 0, tf32) {}

    std::string name() const { return "cuda:" + std::to_string(device_); }
    simt::Stream stream() const { return stream_; }

    template <class Args>
    static const Implementations<Args>& implementations() {
        return cuda::implementations<Args>();
    }
    // The kernels, under the names of cpu::KernelSet.
    struct Kernels {
        decltype(&cuda::relu_fprop) relu_fprop = cuda::relu_fprop;
        decltype(&cuda::relu_bprop) relu_bprop = cuda::relu_bprop;
        decltype(&cuda::max_pool2d_fprop) max_pool2d_fprop = cuda::max_pool2d_fprop;
        decltype(&cuda::max_pool2d_bprop) max_pool2d_bprop = cuda::max_pool2d_bprop;
    };
    static Kernels kernels() { return {}; }
    static int64_t pool_code_bytes(const Conv2dProblem& problem) {
        return problem.conv.groups * cuda::group_code_bytes(problem);
    }

    void complete(Conv2dProblem& problem) const { problem.tf32 = tf32_; }
    static std::string refuse(const Conv2dProblem& problem) { return cuda::refuse(problem); }

    // Calls run(stream) without the GIL. The device stays the thread's current one. Errors have the entry's name.
    template <class Run>
    void run(const char* operation, simt::Stream stream, const Run& run) const {
        pybind11::gil_scoped_release release;
        try {
            const std::string error = simt::make_current(device_);
            if (!error.empty()) throw std::runtime_error(error);
            run(stream);
        } catch (const std::runtime_error& error) {
            throw std::runtime_error(prefix + std::string(operation) + ": " + error.what());
        }
    }

    // A timer waits for the stream, so it runs only at FASTCONV_VERBOSE=2.
    class Timer {
    public:
        explicit Timer(simt::Stream stream) : timer_(verbose_level > 1 ? simt::start_timer(stream) : nullptr) {}
        double stop() const { return timer_ ? simt::stop_timer(timer_) : -1; }  // microseconds

    private:
        simt::Timer* timer_;
    };

private:
    int device_;
    simt::Stream stream_;
    bool tf32_;
};

}  // namespace fastconv::python
