#include "arguments.h"

#include <stdexcept>

#include "../cuda/codes.h"

namespace py = pybind11;

namespace fastconv::python {

const Members<FpropArgs> fprop_members = {{"x", &FpropArgs::x},
                                          {"w", &FpropArgs::w},
                                          {"bias", &FpropArgs::bias},
                                          {"y", &FpropArgs::y},
                                          {"code", &FpropArgs::code}};
const Members<DgradArgs> dgrad_members = {
    {"dy", &DgradArgs::dy}, {"code", &DgradArgs::code}, {"w", &DgradArgs::w}, {"dx", &DgradArgs::dx}};
const Members<WgradArgs> wgrad_members = {{"x", &WgradArgs::x},
                                          {"dy", &WgradArgs::dy},
                                          {"code", &WgradArgs::code},
                                          {"dw", &WgradArgs::dw},
                                          {"dbias", &WgradArgs::dbias}};
const Members<ReluArgs> relu_fprop_members = {{"x", &ReluArgs::from}, {"y", &ReluArgs::to}, {"mask", &ReluArgs::mask}};
const Members<ReluArgs> relu_bprop_members = {
    {"dy", &ReluArgs::from}, {"mask", &ReluArgs::mask}, {"dx", &ReluArgs::to}};
const Members<MaxPool2dArgs> max_pool2d_fprop_members = {
    {"x", &MaxPool2dArgs::from}, {"y", &MaxPool2dArgs::to}, {"code", &MaxPool2dArgs::code}};
const Members<MaxPool2dArgs> max_pool2d_bprop_members = {
    {"dy", &MaxPool2dArgs::from}, {"code", &MaxPool2dArgs::code}, {"dx", &MaxPool2dArgs::to}};

void expect_floating_point(DType dtype, const char* name) {
    if (dtype == DType::float32 || dtype == DType::float64) return;
    if (dtype == DType::float16 || dtype == DType::bfloat16) return;
    throw std::invalid_argument(std::string(name) + " must be float32, float64, float16 or bfloat16, got " +
                                name_of(dtype));
}

namespace {

// A tensor for the kernels. Where a size is 1 torch is free in its stride; CUDA kernels get the dense one.
Tensor tensor_of(Kernels kernels, const Buffer& buffer, const char* name) {
    Tensor t = buffer.tensor();
    if (kernels == Kernels::cpu) return t;
    constexpr int orders[2][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}};  // NCHW and NHWC, innermost first
    for (const auto& order : orders) {
        int64_t dense[4], step = 1;
        bool fits = true;
        for (const int d : order) {
            dense[d] = step;
            fits = fits && (t.size[d] <= 1 || t.stride[d] == step);
            step *= t.size[d] ? t.size[d] : 1;
        }
        if (!fits && buffer.count() != 0) continue;
        for (int d = 0; d < 4; ++d) t.stride[d] = dense[d];
        return t;
    }
    throw std::invalid_argument(std::string(name) + " must be contiguous or channels_last, got sizes " +
                                text(buffer.size) + " and strides " + text(buffer.stride));
}

// A buffer that may be None, as the kernels take it (null data).
Tensor optional_tensor(Kernels kernels, const OptionalBuffer& spec, const char* name, DType dtype,
                       const std::vector<int64_t>& size) {
    if (!spec) return {};
    const Buffer buffer(*spec, name);
    buffer.expect_dtype(dtype, name);
    buffer.expect_size(size, name);
    if (size.size() == 4) return tensor_of(kernels, buffer, name);
    if (kernels == Kernels::cuda && size.size() == 1 && size[0] > 1 && buffer.stride[0] != 1)
        throw std::invalid_argument(std::string(name) + " must be contiguous");
    return buffer.tensor();
}

// The code of a fused block (geometry.h, Epilogue), or null data where there is none.
Tensor code_tensor(Kernels kernels, const OptionalBuffer& spec, const Conv2dProblem& problem) {
    if (!spec) return {};
    const Conv2d& conv = problem.conv;
    if (problem.epilogue == Epilogue::none)
        throw std::invalid_argument("code must be None where there is neither ReLU nor pool");
    if (problem.epilogue == Epilogue::relu_max_pool) {
        const int64_t P = problem.pool.P, Q = problem.pool.Q;
        const int64_t bytes = kernels == Kernels::cuda ? conv.groups * cuda::group_code_bytes(problem) : conv.K;
        Tensor code = optional_tensor(Kernels::cpu, spec, "code", DType::uint8, {conv.N, bytes, P, Q});
        const int64_t wanted[4] = {P * Q * bytes, 1, Q * bytes, bytes};
        for (int i = 0; i < 4; ++i)
            if (code.size[i] > 1 && code.stride[i] != wanted[i])
                throw std::invalid_argument("code must be channels_last");
        // Where a size is 1 torch is free in its stride; the kernels are not.
        for (int i = 0; i < 4; ++i) code.stride[i] = wanted[i];
        return code;
    }
    const std::vector<int64_t> size = {conv.N, conv.P, (conv.Q + 7) / 8, conv.K};
    const Tensor code = optional_tensor(Kernels::cpu, spec, "code", DType::uint8, size);
    int64_t dense = 1;
    for (int i = 3; i >= 0; dense *= size[i--])
        if (size[i] > 1 && code.stride[i] != dense) throw std::invalid_argument("code must be contiguous");
    return code;
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

Tensor pool_code(Kernels kernels, const OptionalBuffer& spec, const Buffer& y, const Pool2d& pool) {
    const DType dtype = pool.window_h * pool.window_w <= max_positions ? DType::uint8 : DType::int32;
    return optional_tensor(kernels, spec, "code", dtype, y.size);
}

}  // namespace

FpropCall fprop_call(Kernels kernels, int threads, const py::tuple& x_spec, const py::tuple& w_spec,
                     const OptionalBuffer& bias, const py::tuple& y_spec, const OptionalBuffer& code,
                     const py::tuple& conv, const OptionalTuple& pool, bool relu) {
    const Buffer x(x_spec, "x"), w(w_spec, "w"), y(y_spec, "y");
    expect_floating_point(x.dtype, "x");
    const auto problem = make_problem(x.dtype, x.size, w.size, y.size, conv, pool, relu, threads);
    w.expect_dtype(x.dtype, "w");
    y.expect_dtype(x.dtype, "y");
    return {problem,
            {tensor_of(kernels, x, "x"), tensor_of(kernels, w, "w"),
             optional_tensor(kernels, bias, "bias", x.dtype, {problem.conv.K}), tensor_of(kernels, y, "y"),
             code_tensor(kernels, code, problem)}};
}

DgradCall dgrad_call(Kernels kernels, int threads, const py::tuple& dy_spec, const OptionalBuffer& code,
                     const py::tuple& w_spec, const py::tuple& dx_spec, const py::tuple& conv,
                     const OptionalTuple& pool) {
    const Buffer dy(dy_spec, "dy"), w(w_spec, "w"), dx(dx_spec, "dx");
    expect_floating_point(dy.dtype, "dy");
    if (pool && !code) throw std::invalid_argument("code must be given where there is a pool");
    const auto problem = make_problem(dy.dtype, dx.size, w.size, dy.size, conv, pool, code.has_value(), threads);
    w.expect_dtype(dy.dtype, "w");
    dx.expect_dtype(dy.dtype, "dx");
    return {problem,
            {tensor_of(kernels, dy, "dy"), code_tensor(kernels, code, problem), tensor_of(kernels, w, "w"),
             tensor_of(kernels, dx, "dx")}};
}

WgradCall wgrad_call(Kernels kernels, int threads, const py::tuple& x_spec, const py::tuple& dy_spec,
                     const OptionalBuffer& code, const OptionalBuffer& dw, const OptionalBuffer& dbias,
                     const py::tuple& w_sizes, const py::tuple& conv, const OptionalTuple& pool) {
    const Buffer x(x_spec, "x"), dy(dy_spec, "dy");
    expect_floating_point(x.dtype, "x");
    if (pool && !code) throw std::invalid_argument("code must be given where there is a pool");
    const auto w_size = integers(w_sizes, "w_sizes", 4);
    const auto problem = make_problem(x.dtype, x.size, w_size, dy.size, conv, pool, code.has_value(), threads);
    dy.expect_dtype(x.dtype, "dy");
    return {problem,
            {tensor_of(kernels, x, "x"), tensor_of(kernels, dy, "dy"), code_tensor(kernels, code, problem),
             optional_tensor(kernels, dw, "dw", x.dtype, w_size),
             optional_tensor(kernels, dbias, "dbias", x.dtype, {problem.conv.K})}};
}

Conv2dProblem workspace_call(Kernels kernels, int threads, int64_t code, const py::tuple& x_sizes,
                             const py::tuple& w_sizes, const py::tuple& y_sizes, const py::tuple& conv,
                             const OptionalTuple& pool, bool relu) {
    const DType dtype = checked_dtype(code, "dtype");
    expect_floating_point(dtype, "dtype");
    return make_problem(dtype, integers(x_sizes, "x_sizes", 4), integers(w_sizes, "w_sizes", 4),
                        integers(y_sizes, "y_sizes", 4), conv, pool, relu, threads);
}

ReluCall relu_fprop_call(Kernels kernels, const py::tuple& x_spec, const py::tuple& y_spec,
                         const OptionalBuffer& mask_spec) {
    const Buffer x(x_spec, "x");
    expect_floating_point(x.dtype, "x");
    const int64_t count = x.count();
    flat(x_spec, "x", x.dtype, count);
    const Tensor y = flat(y_spec, "y", x.dtype, count).tensor();
    const Tensor mask = mask_spec ? flat(*mask_spec, "mask", DType::uint8, (count + 7) / 8).tensor() : Tensor{};
    return {count, {x.tensor(), y, mask}};
}

ReluCall relu_bprop_call(Kernels kernels, const py::tuple& dy_spec, const py::tuple& mask_spec,
                         const py::tuple& dx_spec) {
    const Buffer dy(dy_spec, "dy");
    expect_floating_point(dy.dtype, "dy");
    const int64_t count = dy.count();
    flat(dy_spec, "dy", dy.dtype, count);
    const Tensor mask = flat(mask_spec, "mask", DType::uint8, (count + 7) / 8).tensor();
    const Tensor dx = flat(dx_spec, "dx", dy.dtype, count).tensor();
    return {count, {dy.tensor(), dx, mask}};
}

MaxPool2dCall max_pool2d_fprop_call(Kernels kernels, const py::tuple& x_spec, const py::tuple& y_spec,
                                    const OptionalBuffer& code, const py::tuple& pool_spec) {
    const Buffer x(x_spec, "x"), y(y_spec, "y");
    expect_floating_point(x.dtype, "x");
    y.expect_dtype(x.dtype, "y");
    const Pool2d pool = make_pool(pool_spec, x.size, y.size);
    return {pool, {tensor_of(kernels, x, "x"), tensor_of(kernels, y, "y"), pool_code(kernels, code, y, pool)}};
}

MaxPool2dCall max_pool2d_bprop_call(Kernels kernels, const py::tuple& dy_spec, const py::tuple& code,
                                    const py::tuple& dx_spec, const py::tuple& pool_spec) {
    const Buffer dy(dy_spec, "dy"), dx(dx_spec, "dx");
    expect_floating_point(dy.dtype, "dy");
    dx.expect_dtype(dy.dtype, "dx");
    const Pool2d pool = make_pool(pool_spec, dx.size, dy.size);
    return {pool, {tensor_of(kernels, dy, "dy"), tensor_of(kernels, dx, "dx"), pool_code(kernels, code, dy, pool)}};
}

size_t padded_workspace(size_t needed, size_t alignment) { return needed ? needed + alignment : 0; }

void* workspace_address(const py::tuple& spec, size_t needed, size_t alignment) {
    const size_t bytes = padded_workspace(needed, alignment);
    const Buffer buffer(spec, "workspace");
    buffer.expect_dtype(DType::uint8, "workspace");
    if (buffer.size.size() != 1 || size_t(buffer.size[0]) < bytes)
        throw std::invalid_argument("workspace must hold " + std::to_string(bytes) + " bytes, got " +
                                    text(buffer.size));
    return buffer.data;
}

void* aligned(void* address, size_t alignment) {
    const auto first = reinterpret_cast<uintptr_t>(address);
    return reinterpret_cast<void*>((first + alignment - 1) / alignment * alignment);
}

}  // namespace fastconv::python
