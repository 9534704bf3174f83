// What an operation's entries take, made of Python's arguments and checked: the same for every kind of device.
// All of it throws std::invalid_argument.
#pragma once

#include "again.h"
#include "problem.h"

namespace fastconv::python {

// Whose kernels are called. On CPUs tensors may have any strides, for CUDA they are dense NCHW or NHWC.
enum class Kernels { cpu, cuda };

void expect_floating_point(DType, const char* name);

struct FpropCall {
    Conv2dProblem problem;
    FpropArgs args;
};
struct DgradCall {
    Conv2dProblem problem;
    DgradArgs args;
};
struct WgradCall {
    Conv2dProblem problem;
    WgradArgs args;
};

// Their tensors, in the order of the entries.
extern const Members<FpropArgs> fprop_members;
extern const Members<DgradArgs> dgrad_members;
extern const Members<WgradArgs> wgrad_members;

using OptionalTuple = std::optional<pybind11::tuple>;

FpropCall fprop_call(Kernels, int threads, const pybind11::tuple& x, const pybind11::tuple& w,
                     const OptionalBuffer& bias, const pybind11::tuple& y, const OptionalBuffer& code,
                     const pybind11::tuple& conv, const OptionalTuple& pool, bool relu);
DgradCall dgrad_call(Kernels, int threads, const pybind11::tuple& dy, const OptionalBuffer& code,
                     const pybind11::tuple& w, const pybind11::tuple& dx, const pybind11::tuple& conv,
                     const OptionalTuple& pool);
WgradCall wgrad_call(Kernels, int threads, const pybind11::tuple& x, const pybind11::tuple& dy,
                     const OptionalBuffer& code, const OptionalBuffer& dw, const OptionalBuffer& dbias,
                     const pybind11::tuple& w_sizes, const pybind11::tuple& conv, const OptionalTuple& pool);
Conv2dProblem workspace_call(Kernels, int threads, int64_t dtype, const pybind11::tuple& x_sizes,
                             const pybind11::tuple& w_sizes, const pybind11::tuple& y_sizes,
                             const pybind11::tuple& conv, const OptionalTuple& pool, bool relu);

// Forward: from x to y; backward: from dy to dx. Dense, seen as one dimension. The mask may be missing in the forward
// direction alone.
struct ReluArgs {
    Tensor from, to, mask;
};
struct ReluCall {
    int64_t count;
    ReluArgs args;
};
extern const Members<ReluArgs> relu_fprop_members, relu_bprop_members;
ReluCall relu_fprop_call(Kernels, const pybind11::tuple& x, const pybind11::tuple& y, const OptionalBuffer& mask);
ReluCall relu_bprop_call(Kernels, const pybind11::tuple& dy, const pybind11::tuple& mask, const pybind11::tuple& dx);

struct MaxPool2dArgs {
    Tensor from, to, code;
};
struct MaxPool2dCall {
    Pool2d pool;
    MaxPool2dArgs args;
};
extern const Members<MaxPool2dArgs> max_pool2d_fprop_members, max_pool2d_bprop_members;
MaxPool2dCall max_pool2d_fprop_call(Kernels, const pybind11::tuple& x, const pybind11::tuple& y,
                                    const OptionalBuffer& code, const pybind11::tuple& pool);
MaxPool2dCall max_pool2d_bprop_call(Kernels, const pybind11::tuple& dy, const pybind11::tuple& code,
                                    const pybind11::tuple& dx, const pybind11::tuple& pool);

// `needed` bytes of workspace as Python has to bring them, with room to align; the address of such; and it aligned.
size_t padded_workspace(size_t needed, size_t alignment);
void* workspace_address(const pybind11::tuple& spec, size_t needed, size_t alignment);
void* aligned(void* address, size_t alignment);

}  // namespace fastconv::python
