// The entries of max_pool2d, for any kind of device.
#pragma once

#include "plain_call.h"
#include "problem.h"
#include "problem_text.h"

namespace fastconv::python {

// The tensors are x and y forward, dy and dx backward. Only forward may leave the code out.
struct MaxPool2dArgs {
    Tensor from, to, code;
};

template <class Device, class CallTail = typename Device::CallTail>
struct MaxPool2dEntries;
template <class Device, class... Tail>
struct MaxPool2dEntries<Device, Types<Tail...>> {
    static Tensor code_tensor(const OptionalBuffer& spec, const Buffer& y, const Pool2d& pool) {
        const DType dtype = pool.window_h * pool.window_w <= max_positions ? DType::uint8 : DType::int32;
        return optional_tensor(Device::strides, spec, "code", dtype, y.size);
    }

    static PreparedCall fprop(const pybind11::tuple& x_spec, const pybind11::tuple& y_spec, const OptionalBuffer& code,
                              const pybind11::tuple& pool_spec, Tail... tail) {
        static const Members<MaxPool2dArgs> members = {
            {"x", &MaxPool2dArgs::from}, {"y", &MaxPool2dArgs::to}, {"code", &MaxPool2dArgs::code}};
        const Buffer x(x_spec, "x"), y(y_spec, "y");
        expect_floating_point(x.dtype, "x");
        y.expect_dtype(x.dtype, "y");
        const Pool2d pool = make_pool(pool_spec, x.size, y.size);
        const MaxPool2dArgs args{tensor_of(Device::strides, x, "x"), tensor_of(Device::strides, y, "y"),
                                 code_tensor(code, y, pool)};
        return run_plain(
            Device(tail...), "max_pool2d_fprop", args, members,
            [pool](const MaxPool2dArgs& a, auto where) {
                Device::kernels().max_pool2d_fprop(a.from, a.to, a.code, pool, where);
            },
            [&] { return problem_text(args.from, pool); });
    }

    static PreparedCall bprop(const pybind11::tuple& dy_spec, const pybind11::tuple& code,
                              const pybind11::tuple& dx_spec, const pybind11::tuple& pool_spec, Tail... tail) {
        static const Members<MaxPool2dArgs> members = {
            {"dy", &MaxPool2dArgs::from}, {"code", &MaxPool2dArgs::code}, {"dx", &MaxPool2dArgs::to}};
        const Buffer dy(dy_spec, "dy"), dx(dx_spec, "dx");
        expect_floating_point(dy.dtype, "dy");
        dx.expect_dtype(dy.dtype, "dx");
        const Pool2d pool = make_pool(pool_spec, dx.size, dy.size);
        const MaxPool2dArgs args{tensor_of(Device::strides, dy, "dy"), tensor_of(Device::strides, dx, "dx"),
                                 code_tensor(code, dy, pool)};
        return run_plain(
            Device(tail...), "max_pool2d_bprop", args, members,
            [pool](const MaxPool2dArgs& a, auto where) {
                Device::kernels().max_pool2d_bprop(a.from, a.code, a.to, pool, where);
            },
            [&] { return problem_text(args.to, pool); });
    }
};

template <class Device>
void add_max_pool2d(pybind11::module_& m) {
    using pybind11::arg;
    def_plain<Device>(m, "max_pool2d_fprop", MaxPool2dEntries<Device>::fprop, arg("x"), arg("y"), arg("code"),
                      arg("pool"));
    def_plain<Device>(m, "max_pool2d_bprop", MaxPool2dEntries<Device>::bprop, arg("dy"), arg("code"), arg("dx"),
                      arg("pool"));
}

}  // namespace fastconv::python
