// The entries of the CUDA kernels: the CPU's arguments, but for the last four: the tensors' device and that device's
// current stream, whether TF32 is allowed, and the variant's name ("": the fastest). The same source makes the module
// in which tests call emulated kernels.
#include <pybind11/stl.h>

#include <climits>
#include <stdexcept>

#include "../cuda/kernels.h"
#include "../simt/device.h"
#include "arguments.h"
#include "entries.h"

namespace py = pybind11;

namespace fastconv::python {
namespace {

constexpr Kernels here = Kernels::cuda;
constexpr size_t alignment = 256;  // of a workspace
const std::string no_direction = "direction must be fprop, dgrad or wgrad, got ";

int checked_device(int64_t device) {
    if (device < 0 || device > INT_MAX)
        throw std::invalid_argument("device must not be negative, got " + std::to_string(device));
    return int(device);
}

// Calls launch(stream) on the device, which is the thread's current one from then on.
template <class Launch>
void on_device(const char* entry, int64_t device, uintptr_t stream, const Launch& launch) {
    const int index = checked_device(device);
    py::gil_scoped_release release;
    std::string error = simt::make_current(index);
    if (error.empty()) error = launch(reinterpret_cast<simt::Stream>(stream));
    if (!error.empty()) throw std::runtime_error(std::string(entry) + ": " + error);
}

// What a problem has on GPUs alone. The variant's text has to outlive it.
void complete(Conv2dProblem& problem, bool tf32, const std::string& variant) {
    problem.tf32 = tf32, problem.variant = variant.c_str();
}

// A direction's kernel: what its workspace takes, and how it is started.
template <class Args>
struct Kernel {
    const char* entry;
    size_t (*workspace)(const Conv2dProblem&);
    std::string (*launch)(const Conv2dProblem&, const Args&, void* workspace, simt::Stream);
};

template <class Args, class Call>
Again run(const Kernel<Args>& kernel, const Members<Args>& members, Call call, const py::tuple& workspace,
          int64_t device, uintptr_t stream, bool tf32, const std::string& variant) {
    complete(call.problem, tf32, variant);
    const size_t needed = kernel.workspace(call.problem);
    const auto launch = [kernel, problem = call.problem, device, tf32, variant](const Args& args, void* space,
                                                                                uintptr_t to) {
        Conv2dProblem now = problem;
        complete(now, tf32, variant);
        on_device(kernel.entry, device, to,
                  [&](simt::Stream s) { return kernel.launch(now, args, aligned(space, alignment), s); });
    };
    launch(call.args, workspace_address(workspace, needed, alignment), stream);
    return Again(call.args, members, needed > 0, true, launch);
}

Again conv2d_fprop(const py::tuple& x, const py::tuple& w, const OptionalBuffer& bias, const py::tuple& y,
                   const OptionalBuffer& code, const py::tuple& conv, const OptionalTuple& pool, bool relu,
                   const py::tuple& workspace, int64_t device, uintptr_t stream, bool tf32,
                   const std::string& variant) {
    return run<FpropArgs>({"cuda_conv2d_fprop", cuda::conv2d_fprop_workspace, cuda::conv2d_fprop}, fprop_members,
                          fprop_call(here, 1, x, w, bias, y, code, conv, pool, relu), workspace, device, stream, tf32,
                          variant);
}

Again conv2d_dgrad(const py::tuple& dy, const OptionalBuffer& code, const py::tuple& w, const py::tuple& dx,
                   const py::tuple& conv, const OptionalTuple& pool, const py::tuple& workspace, int64_t device,
                   uintptr_t stream, bool tf32, const std::string& variant) {
    return run<DgradArgs>({"cuda_conv2d_dgrad", cuda::conv2d_dgrad_workspace, cuda::conv2d_dgrad}, dgrad_members,
                          dgrad_call(here, 1, dy, code, w, dx, conv, pool), workspace, device, stream, tf32, variant);
}

Again conv2d_wgrad(const py::tuple& x, const py::tuple& dy, const OptionalBuffer& code, const OptionalBuffer& dw,
                   const OptionalBuffer& dbias, const py::tuple& w_sizes, const py::tuple& conv,
                   const OptionalTuple& pool, const py::tuple& workspace, int64_t device, uintptr_t stream, bool tf32,
                   const std::string& variant) {
    return run<WgradArgs>({"cuda_conv2d_wgrad", cuda::conv2d_wgrad_workspace, cuda::conv2d_wgrad}, wgrad_members,
                          wgrad_call(here, 1, x, dy, code, dw, dbias, w_sizes, conv, pool), workspace, device, stream,
                          tf32, variant);
}

size_t conv2d_workspace(const std::string& direction, int64_t dtype, const py::tuple& x_sizes, const py::tuple& w_sizes,
                        const py::tuple& y_sizes, const py::tuple& conv, const OptionalTuple& pool, bool relu,
                        bool tf32, const std::string& variant) {
    auto problem = workspace_call(here, 1, dtype, x_sizes, w_sizes, y_sizes, conv, pool, relu);
    complete(problem, tf32, variant);
    if (direction == "fprop") return padded_workspace(cuda::conv2d_fprop_workspace(problem), alignment);
    if (direction == "dgrad") return padded_workspace(cuda::conv2d_dgrad_workspace(problem), alignment);
    if (direction == "wgrad") return padded_workspace(cuda::conv2d_wgrad_workspace(problem), alignment);
    throw std::invalid_argument(no_direction + direction);
}

std::vector<std::string> conv2d_variants(const std::string& direction, int64_t dtype, const py::tuple& x_sizes,
                                         const py::tuple& w_sizes, const py::tuple& y_sizes, const py::tuple& conv,
                                         const OptionalTuple& pool, bool relu, bool tf32) {
    auto problem = workspace_call(here, 1, dtype, x_sizes, w_sizes, y_sizes, conv, pool, relu);
    problem.tf32 = tf32;
    if (direction == "fprop") return cuda::conv2d_fprop_variants(problem);
    if (direction == "dgrad") return cuda::conv2d_dgrad_variants(problem);
    if (direction == "wgrad") return cuda::conv2d_wgrad_variants(problem);
    throw std::invalid_argument(no_direction + direction);
}

// An operation without a workspace: run(args, stream).
template <class Args, class Run>
Again run_plain(const char* entry, const Args& args, const Members<Args>& members, int64_t device, uintptr_t stream,
                const Run& run) {
    const auto launch = [entry, device, run](const Args& now, void*, uintptr_t to) {
        on_device(entry, device, to, [&](simt::Stream s) { return run(now, s); });
    };
    launch(args, nullptr, stream);
    return Again(args, members, false, true, launch);
}

Again relu_fprop(const py::tuple& x, const py::tuple& y, const OptionalBuffer& mask, int64_t device, uintptr_t stream) {
    const ReluCall call = relu_fprop_call(here, x, y, mask);
    return run_plain("cuda_relu_fprop", call.args, relu_fprop_members, device, stream,
                     [count = call.count](const ReluArgs& a, simt::Stream s) {
                         return cuda::relu_fprop(a.from.dtype, a.from.data, a.to.data,
                                                 static_cast<uint8_t*>(a.mask.data), count, s);
                     });
}

Again relu_bprop(const py::tuple& dy, const py::tuple& mask, const py::tuple& dx, int64_t device, uintptr_t stream) {
    const ReluCall call = relu_bprop_call(here, dy, mask, dx);
    return run_plain("cuda_relu_bprop", call.args, relu_bprop_members, device, stream,
                     [count = call.count](const ReluArgs& a, simt::Stream s) {
                         return cuda::relu_bprop(a.from.dtype, a.from.data, static_cast<const uint8_t*>(a.mask.data),
                                                 a.to.data, count, s);
                     });
}

Again max_pool2d_fprop(const py::tuple& x, const py::tuple& y, const OptionalBuffer& code, const py::tuple& pool,
                       int64_t device, uintptr_t stream) {
    const MaxPool2dCall call = max_pool2d_fprop_call(here, x, y, code, pool);
    return run_plain("cuda_max_pool2d_fprop", call.args, max_pool2d_fprop_members, device, stream,
                     [pool = call.pool](const MaxPool2dArgs& a, simt::Stream s) {
                         return cuda::max_pool2d_fprop(a.from, a.to, a.code, pool, s);
                     });
}

Again max_pool2d_bprop(const py::tuple& dy, const py::tuple& code, const py::tuple& dx, const py::tuple& pool,
                       int64_t device, uintptr_t stream) {
    const MaxPool2dCall call = max_pool2d_bprop_call(here, dy, code, dx, pool);
    return run_plain("cuda_max_pool2d_bprop", call.args, max_pool2d_bprop_members, device, stream,
                     [pool = call.pool](const MaxPool2dArgs& a, simt::Stream s) {
                         return cuda::max_pool2d_bprop(a.from, a.code, a.to, pool, s);
                     });
}

}  // namespace

void add_cuda_entries(py::module_& m) {
    m.def("cuda_conv2d_workspace", conv2d_workspace, py::arg("direction"), py::arg("dtype"), py::arg("x_sizes"),
          py::arg("w_sizes"), py::arg("y_sizes"), py::arg("conv"), py::arg("pool"), py::arg("relu"), py::arg("tf32"),
          py::arg("variant"));
    m.def("cuda_conv2d_variants", conv2d_variants, py::arg("direction"), py::arg("dtype"), py::arg("x_sizes"),
          py::arg("w_sizes"), py::arg("y_sizes"), py::arg("conv"), py::arg("pool"), py::arg("relu"), py::arg("tf32"));
    m.def("cuda_conv2d_fprop", conv2d_fprop, py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("y"), py::arg("code"),
          py::arg("conv"), py::arg("pool"), py::arg("relu"), py::arg("workspace"), py::arg("device"), py::arg("stream"),
          py::arg("tf32"), py::arg("variant"));
    m.def("cuda_conv2d_dgrad", conv2d_dgrad, py::arg("dy"), py::arg("code"), py::arg("w"), py::arg("dx"),
          py::arg("conv"), py::arg("pool"), py::arg("workspace"), py::arg("device"), py::arg("stream"), py::arg("tf32"),
          py::arg("variant"));
    m.def("cuda_conv2d_wgrad", conv2d_wgrad, py::arg("x"), py::arg("dy"), py::arg("code"), py::arg("dw"),
          py::arg("dbias"), py::arg("w_sizes"), py::arg("conv"), py::arg("pool"), py::arg("workspace"),
          py::arg("device"), py::arg("stream"), py::arg("tf32"), py::arg("variant"));
    m.def("cuda_relu_fprop", relu_fprop, py::arg("x"), py::arg("y"), py::arg("mask"), py::arg("device"),
          py::arg("stream"));
    m.def("cuda_relu_bprop", relu_bprop, py::arg("dy"), py::arg("mask"), py::arg("dx"), py::arg("device"),
          py::arg("stream"));
    m.def("cuda_max_pool2d_fprop", max_pool2d_fprop, py::arg("x"), py::arg("y"), py::arg("code"), py::arg("pool"),
          py::arg("device"), py::arg("stream"));
    m.def("cuda_max_pool2d_bprop", max_pool2d_bprop, py::arg("dy"), py::arg("code"), py::arg("dx"), py::arg("pool"),
          py::arg("device"), py::arg("stream"));
    // Why there is none ("" where there is one), and whether another answer may come later.
    m.def("cuda_device_count", [] {
        const auto [count, answer] = simt::device_count();
        return py::make_tuple(count, answer.error, answer.passing);
    });
    // Why the kernels do not run on that device ("" where they do), and whether another answer may come later.
    m.def(
        "cuda_why_not_on",
        [](int64_t device) {
            const auto [error, passing] = simt::runs_on(checked_device(device));
            return py::make_tuple(error, passing);
        },
        py::arg("device"));
}

}  // namespace fastconv::python
