// The entries of relu, for any kind of device.
#pragma once

#include "plain_call.h"
#include "problem_text.h"

namespace fastconv::python {

// The tensors are x and y forward, dy and dx backward. They are dense and count as one-dimensional. Only forward may
// leave the mask out.
struct ReluArgs {
    Tensor from, to, mask;
};

template <class Device, class CallTail = typename Device::CallTail>
struct ReluEntries;
template <class Device, class... Tail>
struct ReluEntries<Device, Types<Tail...>> {
    static PreparedCall fprop(const pybind11::tuple& x_spec, const pybind11::tuple& y_spec, const OptionalBuffer& mask,
                              Tail... tail) {
        static const Members<ReluArgs> members = {
            {"x", &ReluArgs::from}, {"y", &ReluArgs::to}, {"mask", &ReluArgs::mask}};
        const Buffer x(x_spec, "x");
        expect_floating_point(x.dtype, "x");
        const int64_t count = x.count();
        const ReluArgs args{flat_tensor(x_spec, "x", x.dtype, count), flat_tensor(y_spec, "y", x.dtype, count),
                            mask ? flat_tensor(*mask, "mask", DType::uint8, (count + 7) / 8) : Tensor{}};
        return run_plain(
            Device(tail...), "relu_fprop", args, members,
            [count](const ReluArgs& a, auto where) {
                Device::kernels().relu_fprop(a.from.dtype, a.from.data, a.to.data, static_cast<uint8_t*>(a.mask.data),
                                             count, where);
            },
            [&] { return problem_text(x.dtype, count); });
    }

    static PreparedCall bprop(const pybind11::tuple& dy_spec, const pybind11::tuple& mask,
                              const pybind11::tuple& dx_spec, Tail... tail) {
        static const Members<ReluArgs> members = {
            {"dy", &ReluArgs::from}, {"mask", &ReluArgs::mask}, {"dx", &ReluArgs::to}};
        const Buffer dy(dy_spec, "dy");
        expect_floating_point(dy.dtype, "dy");
        const int64_t count = dy.count();
        const Tensor from = flat_tensor(dy_spec, "dy", dy.dtype, count);
        const Tensor bits = flat_tensor(mask, "mask", DType::uint8, (count + 7) / 8);
        const ReluArgs args{from, flat_tensor(dx_spec, "dx", dy.dtype, count), bits};
        return run_plain(
            Device(tail...), "relu_bprop", args, members,
            [count](const ReluArgs& a, auto where) {
                Device::kernels().relu_bprop(a.from.dtype, a.from.data, static_cast<const uint8_t*>(a.mask.data),
                                             a.to.data, count, where);
            },
            [&] { return problem_text(dy.dtype, count); });
    }
};

template <class Device>
void add_relu(pybind11::module_& m) {
    using pybind11::arg;
    def_plain<Device>(m, "relu_fprop", ReluEntries<Device>::fprop, arg("x"), arg("y"), arg("mask"));
    def_plain<Device>(m, "relu_bprop", ReluEntries<Device>::bprop, arg("dy"), arg("mask"), arg("dx"));
}

}  // namespace fastconv::python
