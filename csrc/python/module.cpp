// fastconv._C: checks what Python passes, releases the GIL and calls the kernels. Knows no torch.
#include <pthread.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <stdexcept>

#include "../cpu/dispatch.h"
#include "../cuda/launch.h"
#include "buffer.h"
#include "problem.h"

namespace py = pybind11;
using namespace fastconv;
using namespace fastconv::python;

namespace {

// libgomp's threads do not survive fork, and starting new ones in the child hangs: one thread there.
std::atomic<bool> in_forked_child{false};

int usable_threads(int64_t threads) {
    if (threads < 1) throw std::invalid_argument("threads must be at least 1, got " + std::to_string(threads));
    return in_forked_child ? 1 : int(std::min<int64_t>(threads, 1024));
}

// A buffer that may be None, as the kernels take it (null data).
Tensor optional_tensor(const OptionalBuffer& spec, const char* name, DType dtype, const std::vector<int64_t>& size) {
    if (!spec) return {};
    const Buffer buffer(*spec, name);
    buffer.expect_dtype(dtype, name);
    buffer.expect_size(size, name);
    return buffer.tensor();
}

// The code of a fused block (geometry.h, Epilogue), or null data where there is none.
Tensor code_tensor(const OptionalBuffer& spec, const Conv2dProblem& problem) {
    if (!spec) return {};
    const Conv2d& conv = problem.conv;
    if (problem.epilogue == Epilogue::none)
        throw std::invalid_argument("code must be None where there is neither ReLU nor pool");
    if (problem.epilogue == Epilogue::relu_max_pool) {
        Tensor code = optional_tensor(spec, "code", DType::uint8, {conv.N, conv.K, problem.pool.P, problem.pool.Q});
        const int64_t wanted[4] = {problem.pool.P * problem.pool.Q * conv.K, 1, problem.pool.Q * conv.K, conv.K};
        for (int i = 0; i < 4; ++i)
            if (code.size[i] > 1 && code.stride[i] != wanted[i])
                throw std::invalid_argument("code must be channels_last");
        // Where a size is 1 torch is free in its stride; the kernels are not.
        for (int i = 0; i < 4; ++i) code.stride[i] = wanted[i];
        return code;
    }
    const std::vector<int64_t> size = {conv.N, conv.P, (conv.Q + 7) / 8, conv.K};
    const Tensor code = optional_tensor(spec, "code", DType::uint8, size);
    int64_t dense = 1;
    for (int i = 3; i >= 0; dense *= size[i--])
        if (size[i] > 1 && code.stride[i] != dense) throw std::invalid_argument("code must be contiguous");
    return code;
}

// Where the workspace starts once aligned; `needed` includes room for that.
constexpr size_t alignment = 64;

void* aligned_workspace(const py::tuple& spec, size_t needed) {
    const Buffer buffer(spec, "workspace");
    buffer.expect_dtype(DType::uint8, "workspace");
    if (buffer.size.size() != 1 || size_t(buffer.size[0]) < needed)
        throw std::invalid_argument("workspace must hold " + std::to_string(needed) + " bytes, got " +
                                    text(buffer.size));
    const auto address = reinterpret_cast<uintptr_t>(buffer.data);
    return reinterpret_cast<void*>((address + alignment - 1) / alignment * alignment);
}

template <class Args>
size_t padded_workspace(const cpu::Implementation<Args>& implementation, const Conv2dProblem& problem) {
    const size_t bytes = implementation.workspace(problem);
    return bytes ? bytes + alignment : 0;
}

template <class Args>
void run(const std::vector<cpu::Implementation<Args>>& list, const Conv2dProblem& problem, const Args& args,
         const py::tuple& workspace, const std::string& name) {
    const auto implementation = cpu::choose(list, problem, name);
    void* aligned = aligned_workspace(workspace, padded_workspace(implementation, problem));
    py::gil_scoped_release release;
    implementation.run(problem, args, aligned);
}

size_t conv2d_workspace(const std::string& direction, int64_t dtype, const py::tuple& x_sizes, const py::tuple& w_sizes,
                        const py::tuple& y_sizes, const py::tuple& conv, const std::optional<py::tuple>& pool,
                        bool relu, int64_t threads, const std::string& name) {
    const auto problem =
        make_problem(checked_dtype(dtype, "dtype"), integers(x_sizes, "x_sizes", 4), integers(w_sizes, "w_sizes", 4),
                     integers(y_sizes, "y_sizes", 4), conv, pool, relu, usable_threads(threads));
    if (direction == "fprop")
        return padded_workspace(cpu::choose(cpu::fprop_implementations(), problem, name), problem);
    if (direction == "dgrad")
        return padded_workspace(cpu::choose(cpu::dgrad_implementations(), problem, name), problem);
    if (direction == "wgrad")
        return padded_workspace(cpu::choose(cpu::wgrad_implementations(), problem, name), problem);
    throw std::invalid_argument("direction must be fprop, dgrad or wgrad, got " + direction);
}

void conv2d_fprop(const py::tuple& x_spec, const py::tuple& w_spec, const OptionalBuffer& bias, const py::tuple& y_spec,
                  const OptionalBuffer& code, const py::tuple& conv, const std::optional<py::tuple>& pool, bool relu,
                  const py::tuple& workspace, int64_t threads, const std::string& implementation) {
    const Buffer x(x_spec, "x"), w(w_spec, "w"), y(y_spec, "y");
    const auto problem = make_problem(x.dtype, x.size, w.size, y.size, conv, pool, relu, usable_threads(threads));
    w.expect_dtype(x.dtype, "w");
    y.expect_dtype(x.dtype, "y");
    const cpu::FpropArgs args = {x.tensor(), w.tensor(), optional_tensor(bias, "bias", x.dtype, {problem.conv.K}),
                                 y.tensor(), code_tensor(code, problem)};
    run(cpu::fprop_implementations(), problem, args, workspace, implementation);
}

void conv2d_dgrad(const py::tuple& dy_spec, const OptionalBuffer& code, const py::tuple& w_spec,
                  const py::tuple& dx_spec, const py::tuple& conv, const std::optional<py::tuple>& pool,
                  const py::tuple& workspace, int64_t threads, const std::string& implementation) {
    const Buffer dy(dy_spec, "dy"), w(w_spec, "w"), dx(dx_spec, "dx");
    if (pool && !code) throw std::invalid_argument("code must be given where there is a pool");
    const auto problem =
        make_problem(dy.dtype, dx.size, w.size, dy.size, conv, pool, code.has_value(), usable_threads(threads));
    w.expect_dtype(dy.dtype, "w");
    dx.expect_dtype(dy.dtype, "dx");
    const cpu::DgradArgs args = {dy.tensor(), code_tensor(code, problem), w.tensor(), dx.tensor()};
    run(cpu::dgrad_implementations(), problem, args, workspace, implementation);
}

void conv2d_wgrad(const py::tuple& x_spec, const py::tuple& dy_spec, const OptionalBuffer& code,
                  const OptionalBuffer& dw, const OptionalBuffer& dbias, const py::tuple& w_sizes,
                  const py::tuple& conv, const std::optional<py::tuple>& pool, const py::tuple& workspace,
                  int64_t threads, const std::string& implementation) {
    const Buffer x(x_spec, "x"), dy(dy_spec, "dy");
    if (pool && !code) throw std::invalid_argument("code must be given where there is a pool");
    const auto w_size = integers(w_sizes, "w_sizes", 4);
    const auto problem =
        make_problem(x.dtype, x.size, w_size, dy.size, conv, pool, code.has_value(), usable_threads(threads));
    dy.expect_dtype(x.dtype, "dy");
    const cpu::WgradArgs args = {x.tensor(), dy.tensor(), code_tensor(code, problem),
                                 optional_tensor(dw, "dw", x.dtype, w_size),
                                 optional_tensor(dbias, "dbias", x.dtype, {problem.conv.K})};
    run(cpu::wgrad_implementations(), problem, args, workspace, implementation);
}

// A dense array seen as one dimension.
Buffer flat(const py::tuple& spec, const char* name, DType dtype, int64_t count) {
    Buffer buffer(spec, name);
    buffer.expect_dtype(dtype, name);
    buffer.expect_size({count}, name);
    if (count > 1 && buffer.stride[0] != 1)
        throw std::invalid_argument(std::string(name) + " must be dense, got stride " +
                                    std::to_string(buffer.stride[0]));
    return buffer;
}

DType checked_real(const Buffer& buffer, const char* name) {
    if (buffer.dtype != DType::float32 && buffer.dtype != DType::float64)
        throw std::invalid_argument(std::string(name) + " must be float32 or float64");
    return buffer.dtype;
}

void relu_fprop(const py::tuple& x_spec, const py::tuple& y_spec, const OptionalBuffer& mask_spec, int64_t threads) {
    const Buffer x(x_spec, "x");
    const int64_t count = x.count();
    flat(x_spec, "x", checked_real(x, "x"), count);
    const Buffer y = flat(y_spec, "y", x.dtype, count);
    void* mask = mask_spec ? flat(*mask_spec, "mask", DType::uint8, (count + 7) / 8).data : nullptr;
    const int usable = usable_threads(threads);
    py::gil_scoped_release release;
    cpu::kernels().relu_fprop(x.dtype, x.data, y.data, static_cast<uint8_t*>(mask), count, usable);
}

void relu_bprop(const py::tuple& dy_spec, const py::tuple& mask_spec, const py::tuple& dx_spec, int64_t threads) {
    const Buffer dy(dy_spec, "dy");
    const int64_t count = dy.count();
    flat(dy_spec, "dy", checked_real(dy, "dy"), count);
    const Buffer mask = flat(mask_spec, "mask", DType::uint8, (count + 7) / 8);
    const Buffer dx = flat(dx_spec, "dx", dy.dtype, count);
    const int usable = usable_threads(threads);
    py::gil_scoped_release release;
    cpu::kernels().relu_bprop(dy.dtype, dy.data, static_cast<const uint8_t*>(mask.data), dx.data, count, usable);
}

Tensor pool_code(const OptionalBuffer& spec, const Buffer& y, const Pool2d& pool) {
    if (!spec) return {};
    const Buffer code(*spec, "code");
    code.expect_dtype(pool.window_h * pool.window_w <= max_positions ? DType::uint8 : DType::int32, "code");
    code.expect_size(y.size, "code");
    return code.tensor();
}

void max_pool2d_fprop(const py::tuple& x_spec, const py::tuple& y_spec, const OptionalBuffer& code,
                      const py::tuple& pool_spec, int64_t threads) {
    const Buffer x(x_spec, "x"), y(y_spec, "y");
    y.expect_dtype(checked_real(x, "x"), "y");
    const Pool2d pool = make_pool(pool_spec, x.size, y.size);
    const Tensor codes = pool_code(code, y, pool);
    const int usable = usable_threads(threads);
    py::gil_scoped_release release;
    cpu::kernels().max_pool2d_fprop(x.tensor(), y.tensor(), codes, pool, usable);
}

void max_pool2d_bprop(const py::tuple& dy_spec, const py::tuple& code, const py::tuple& dx_spec,
                      const py::tuple& pool_spec, int64_t threads) {
    const Buffer dy(dy_spec, "dy"), dx(dx_spec, "dx");
    dx.expect_dtype(checked_real(dy, "dy"), "dx");
    const Pool2d pool = make_pool(pool_spec, dx.size, dy.size);
    const Tensor codes = pool_code(code, dy, pool);
    const int usable = usable_threads(threads);
    py::gil_scoped_release release;
    cpu::kernels().max_pool2d_bprop(dy.tensor(), codes, dx.tensor(), pool, usable);
}

template <class Args>
std::vector<std::string> names(const std::vector<cpu::Implementation<Args>>& list) {
    std::vector<std::string> result;
    for (const auto& implementation : list) result.push_back(implementation.name);
    return result;
}

std::vector<std::string> implementations(const std::string& direction) {
    if (direction == "fprop") return names(cpu::fprop_implementations());
    if (direction == "dgrad") return names(cpu::dgrad_implementations());
    if (direction == "wgrad") return names(cpu::wgrad_implementations());
    throw std::invalid_argument("direction must be fprop, dgrad or wgrad, got " + direction);
}

py::dict build_info() {
    std::vector<std::string> built, supported;
    for (const cpu::KernelSet* set : cpu::kernel_sets()) {
        built.push_back(set->name);
        if (set->runs_here()) supported.push_back(set->name);
    }
    py::dict info;
    info["version"] = FASTCONV_VERSION;
    info["compiler"] = FASTCONV_COMPILER;
    info["cuda"] = bool(FASTCONV_WITH_CUDA);
    info["cuda_why"] = FASTCONV_CUDA_WHY;
    info["cuda_targets"] = py::str(FASTCONV_CUDA_TARGETS).attr("split")();
    info["isas"] = built;
    info["isa"] = cpu::kernels().name;
    info["isas_supported"] = supported;
    return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
    cpu::kernels();  // a wrong FASTCONV_ISA fails the import, not some later call

    m.doc() = "The kernels of fastconv. Tensors are (data_ptr, nbytes, dtype, sizes, strides); see CONTRIBUTING.md.";
    m.def("conv2d_workspace", conv2d_workspace, py::arg("direction"), py::arg("dtype"), py::arg("x_sizes"),
          py::arg("w_sizes"), py::arg("y_sizes"), py::arg("conv"), py::arg("pool"), py::arg("relu"), py::arg("threads"),
          py::arg("implementation") = "");
    m.def("conv2d_fprop", conv2d_fprop, py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("y"), py::arg("code"),
          py::arg("conv"), py::arg("pool"), py::arg("relu"), py::arg("workspace"), py::arg("threads"),
          py::arg("implementation") = "");
    m.def("conv2d_dgrad", conv2d_dgrad, py::arg("dy"), py::arg("code"), py::arg("w"), py::arg("dx"), py::arg("conv"),
          py::arg("pool"), py::arg("workspace"), py::arg("threads"), py::arg("implementation") = "");
    m.def("conv2d_wgrad", conv2d_wgrad, py::arg("x"), py::arg("dy"), py::arg("code"), py::arg("dw"), py::arg("dbias"),
          py::arg("w_sizes"), py::arg("conv"), py::arg("pool"), py::arg("workspace"), py::arg("threads"),
          py::arg("implementation") = "");
    m.def("relu_fprop", relu_fprop, py::arg("x"), py::arg("y"), py::arg("mask"), py::arg("threads"));
    m.def("relu_bprop", relu_bprop, py::arg("dy"), py::arg("mask"), py::arg("dx"), py::arg("threads"));
    m.def("max_pool2d_fprop", max_pool2d_fprop, py::arg("x"), py::arg("y"), py::arg("code"), py::arg("pool"),
          py::arg("threads"));
    m.def("max_pool2d_bprop", max_pool2d_bprop, py::arg("dy"), py::arg("code"), py::arg("dx"), py::arg("pool"),
          py::arg("threads"));
    m.def("implementations", implementations, py::arg("direction"));
    m.def("build_info", build_info);
    m.def("cuda_device_count", [] {
        const cuda::DeviceCount found = cuda::device_count();
        return py::make_tuple(found.count, found.error);
    });
    m.def(
        "cuda_relu_fprop",
        [](const py::tuple& x_spec, const py::tuple& y_spec, int device, uintptr_t stream) {
            const Buffer x(x_spec, "x");
            const int64_t count = x.count();
            flat(x_spec, "x", DType::float32, count);
            const Buffer y = flat(y_spec, "y", DType::float32, count);
            py::gil_scoped_release release;
            const std::string error =
                cuda::relu_fprop(static_cast<const float*>(x.data), static_cast<float*>(y.data), count, device, stream);
            if (!error.empty()) throw std::runtime_error("cuda_relu_fprop: " + error);
        },
        py::arg("x"), py::arg("y"), py::arg("device"), py::arg("stream"));
}
