// The entries of convolutions and fused blocks, for any kind of device.
#pragma once

#include <pybind11/stl.h>

#include <stdexcept>

#include "../common/choose.h"
#include "../common/layouts.h"
#include "prepared_call.h"
#include "problem.h"
#include "problem_text.h"
#include "tensors.h"
#include "types.h"
#include "verbose.h"

namespace fastconv::python {

using OptionalTuple = std::optional<pybind11::tuple>;

// A direction's names and its tensors, in the order of the entry's arguments.
template <class Args>
struct Direction;
template <>
struct Direction<FpropArgs> {
    static constexpr const char *name = "fprop", *operation = "conv2d_fprop";
    static const Members<FpropArgs> members;
};
template <>
struct Direction<DgradArgs> {
    static constexpr const char *name = "dgrad", *operation = "conv2d_dgrad";
    static const Members<DgradArgs> members;
};
template <>
struct Direction<WgradArgs> {
    static constexpr const char *name = "wgrad", *operation = "conv2d_wgrad";
    static const Members<WgradArgs> members;
};

// A call of one direction. Its text is empty unless FASTCONV_VERBOSE is set.
template <class Args>
struct Conv2dCall {
    Conv2dProblem problem;
    Args args;
    std::string text;
};

// The code of a fused block (Epilogue in geometry.h); null data without a code. pool_bytes: bytes per pooled pixel.
Tensor code_tensor(const OptionalBuffer&, const Conv2dProblem&, int64_t pool_bytes);

// Calls function(a value of the direction's Args) and returns its result.
template <class Function>
auto with_direction(const std::string& name, const Function& function) {
    if (name == "fprop") return function(FpropArgs());
    if (name == "dgrad") return function(DgradArgs());
    if (name == "wgrad") return function(WgradArgs());
    throw std::invalid_argument("direction must be fprop, dgrad or wgrad, got " + name);
}

// Makes a call and prepares it for other addresses. If their alignment differs, an implementation is chosen again.
template <class Args, class Device>
PreparedCall run_conv2d(const Device& device, Conv2dCall<Args> call, const pybind11::tuple& workspace,
                        const std::string& name) {
    using Direction = python::Direction<Args>;
    const auto& list = Device::template implementations<Args>();
    const std::string refused = Device::refuse(call.problem);
    if (!refused.empty()) throw std::runtime_error(std::string(Device::prefix) + Direction::operation + ": " + refused);
    call.problem.layouts = layouts_of(call.problem.conv, call.args);
    const size_t needed = workspace_of(list, call.problem, name);
    const auto launch = [device, &list, name, problem = call.problem, text = call.text,
                         chosen = &choose(list, call.problem, name)](const Args& args, void* space, void* stream) {
        Conv2dProblem now = problem;
        now.layouts = layouts_of(now.conv, args);
        const auto* implementation = now.layouts == problem.layouts ? chosen : &choose(list, now, name);
        device.complete(now);
        run_kernel(
            device, Direction::operation, stream,
            [&](auto) { implementation->run(now, args, {aligned(space, Device::alignment), stream}); },
            [&] {
                CallText said{Direction::operation, text, implementation->name};
                if (verbose_level > 1) said.passed_over = passed_over(list, now, *implementation, name);
                return said;
            });
    };
    launch(call.args, workspace_address(workspace, needed, Device::alignment), device.stream());
    return PreparedCall(call.args, Direction::members, needed > 0, Device::has_stream, launch);
}

template <class Device, class ConvTail = typename Device::ConvTail>
struct Conv2dEntries;
template <class Device, class... Tail>
struct Conv2dEntries<Device, Types<Tail...>> {
    using Tuple = pybind11::tuple;

    static Conv2dProblem problem_of(const Device& device, DType dtype, const std::vector<int64_t>& x_size,
                                    const std::vector<int64_t>& w_size, const std::vector<int64_t>& y_size,
                                    const Tuple& conv, const OptionalTuple& pool, bool relu) {
        Conv2dProblem problem = make_problem(dtype, x_size, w_size, y_size, conv, pool, relu);
        device.complete(problem);
        return problem;
    }
    static Tensor code_of(const OptionalBuffer& code, const Conv2dProblem& problem) {
        return code_tensor(code, problem, Device::pool_code_bytes(problem));
    }
    static Tensor tensor(const Buffer& buffer, const char* name) { return tensor_of(Device::strides, buffer, name); }
    template <class Args>
    static Conv2dCall<Args> call(const Conv2dProblem& problem, const Args& args, const Tuple& conv, bool bias) {
        if (verbose_level == 0) return {problem, args, ""};
        Conv2dProblem shown = problem;
        shown.layouts = layouts_of(problem.conv, args);
        return {problem, args, problem_text(shown, integers(conv, "conv", 9), bias)};
    }

    static PreparedCall fprop(const Tuple& x_spec, const Tuple& w_spec, const OptionalBuffer& bias, const Tuple& y_spec,
                              const OptionalBuffer& code, const Tuple& conv, const OptionalTuple& pool, bool relu,
                              const Tuple& workspace, Tail... tail, const std::string& implementation) {
        const Device device(tail...);
        const Buffer x(x_spec, "x"), w(w_spec, "w"), y(y_spec, "y");
        expect_floating_point(x.dtype, "x");
        const auto problem = problem_of(device, x.dtype, x.size, w.size, y.size, conv, pool, relu);
        w.expect_dtype(x.dtype, "w");
        y.expect_dtype(x.dtype, "y");
        const FpropArgs args{tensor(x, "x"), tensor(w, "w"),
                             optional_tensor(Device::strides, bias, "bias", x.dtype, {problem.conv.K}), tensor(y, "y"),
                             code_of(code, problem)};
        return run_conv2d(device, call(problem, args, conv, bias.has_value()), workspace, implementation);
    }

    static PreparedCall dgrad(const Tuple& dy_spec, const OptionalBuffer& code, const Tuple& w_spec,
                              const Tuple& dx_spec, const Tuple& conv, const OptionalTuple& pool,
                              const Tuple& workspace, Tail... tail, const std::string& implementation) {
        const Device device(tail...);
        const Buffer dy(dy_spec, "dy"), w(w_spec, "w"), dx(dx_spec, "dx");
        expect_floating_point(dy.dtype, "dy");
        if (pool && !code) throw std::invalid_argument("code must be given where there is a pool");
        const auto problem = problem_of(device, dy.dtype, dx.size, w.size, dy.size, conv, pool, code.has_value());
        w.expect_dtype(dy.dtype, "w");
        dx.expect_dtype(dy.dtype, "dx");
        const DgradArgs args{tensor(dy, "dy"), code_of(code, problem), tensor(w, "w"), tensor(dx, "dx")};
        return run_conv2d(device, call(problem, args, conv, true), workspace, implementation);
    }

    static PreparedCall wgrad(const Tuple& x_spec, const Tuple& dy_spec, const OptionalBuffer& code,
                              const OptionalBuffer& dw, const OptionalBuffer& dbias, const Tuple& w_sizes,
                              const Tuple& conv, const OptionalTuple& pool, const Tuple& workspace, Tail... tail,
                              const std::string& implementation) {
        const Device device(tail...);
        const Buffer x(x_spec, "x"), dy(dy_spec, "dy");
        expect_floating_point(x.dtype, "x");
        if (pool && !code) throw std::invalid_argument("code must be given where there is a pool");
        const auto w_size = integers(w_sizes, "w_sizes", 4);
        const auto problem = problem_of(device, x.dtype, x.size, w_size, dy.size, conv, pool, code.has_value());
        dy.expect_dtype(x.dtype, "dy");
        const WgradArgs args{tensor(x, "x"), tensor(dy, "dy"), code_of(code, problem),
                             optional_tensor(Device::strides, dw, "dw", x.dtype, w_size),
                             optional_tensor(Device::strides, dbias, "dbias", x.dtype, {problem.conv.K})};
        return run_conv2d(device, call(problem, args, conv, dbias.has_value()), workspace, implementation);
    }
};

// The entries that take sizes in place of tensors.
template <class Device, class SizesTail = typename Device::SizesTail>
struct Conv2dSizesEntries;
template <class Device, class... Tail>
struct Conv2dSizesEntries<Device, Types<Tail...>> {
    using Tuple = pybind11::tuple;

    static Conv2dProblem problem_of(int64_t code, const Tuple& x_sizes, const Tuple& w_sizes, const Tuple& y_sizes,
                                    const Tuple& conv, const OptionalTuple& pool, bool relu, Tail... tail) {
        const DType dtype = checked_dtype(code, "dtype");
        expect_floating_point(dtype, "dtype");
        return Conv2dEntries<Device>::problem_of(Device(tail...), dtype, integers(x_sizes, "x_sizes", 4),
                                                 integers(w_sizes, "w_sizes", 4), integers(y_sizes, "y_sizes", 4), conv,
                                                 pool, relu);
    }

    // Bytes of workspace, enough for every memory format and address.
    static size_t workspace(const std::string& direction, int64_t dtype, const Tuple& x_sizes, const Tuple& w_sizes,
                            const Tuple& y_sizes, const Tuple& conv, const OptionalTuple& pool, bool relu, Tail... tail,
                            const std::string& implementation) {
        const auto problem = problem_of(dtype, x_sizes, w_sizes, y_sizes, conv, pool, relu, tail...);
        return with_direction(direction, [&](auto args) -> size_t {
            if (!Device::refuse(problem).empty()) return 0;
            const auto& list = Device::template implementations<decltype(args)>();
            return padded_workspace(workspace_of(list, problem, implementation), Device::alignment);
        });
    }

    // Names of the implementations that take the problem with aligned tensors of one memory format, the default first.
    static std::vector<std::string> implementations(const std::string& direction, int64_t dtype, const Tuple& x_sizes,
                                                    const Tuple& w_sizes, const Tuple& y_sizes, const Tuple& conv,
                                                    const OptionalTuple& pool, bool relu, Tail... tail,
                                                    bool channels_last) {
        auto problem = problem_of(dtype, x_sizes, w_sizes, y_sizes, conv, pool, relu, tail...);
        return with_direction(direction, [&](auto args) -> std::vector<std::string> {
            if (!Device::refuse(problem).empty()) return {};
            problem.layouts = dense_layouts(problem.conv, problem.dtype, channels_last, 16);
            return names_by_cost(Device::template implementations<decltype(args)>(), problem);
        });
    }
};

template <class Device>
void add_conv2d(pybind11::module_& m) {
    using pybind11::arg;
    const auto def = [&](const char* name, auto entry, const auto& arguments) {
        const std::string full = std::string(Device::prefix) + name;
        std::apply([&](const auto&... each) { m.def(full.c_str(), entry, each...); }, arguments);
    };
    const auto name = std::make_tuple(arg("implementation") = "");
    const auto sizes = std::make_tuple(arg("direction"), arg("dtype"), arg("x_sizes"), arg("w_sizes"), arg("y_sizes"),
                                       arg("conv"), arg("pool"), arg("relu"));
    using Entries = Conv2dEntries<Device>;
    using SizesEntries = Conv2dSizesEntries<Device>;
    def("conv2d_workspace", SizesEntries::workspace, std::tuple_cat(sizes, Device::sizes_tail(), name));
    def("conv2d_implementations", SizesEntries::implementations,
        std::tuple_cat(sizes, Device::sizes_tail(), std::make_tuple(arg("channels_last"))));
    def("conv2d_fprop", Entries::fprop,
        std::tuple_cat(std::make_tuple(arg("x"), arg("w"), arg("bias"), arg("y"), arg("code"), arg("conv"), arg("pool"),
                                       arg("relu"), arg("workspace")),
                       Device::conv_tail(), name));
    def("conv2d_dgrad", Entries::dgrad,
        std::tuple_cat(
            std::make_tuple(arg("dy"), arg("code"), arg("w"), arg("dx"), arg("conv"), arg("pool"), arg("workspace")),
            Device::conv_tail(), name));
    def("conv2d_wgrad", Entries::wgrad,
        std::tuple_cat(std::make_tuple(arg("x"), arg("dy"), arg("code"), arg("dw"), arg("dbias"), arg("w_sizes"),
                                       arg("conv"), arg("pool"), arg("workspace")),
                       Device::conv_tail(), name));
}

}  // namespace fastconv::python
