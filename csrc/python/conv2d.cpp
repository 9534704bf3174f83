// The convolution entries' code for all devices: each direction's tensors, and the check of a code.
#include "conv2d.h"

namespace fastconv::python {

const Members<FpropArgs> Direction<FpropArgs>::members = {{"x", &FpropArgs::x},
                                                          {"w", &FpropArgs::w},
                                                          {"bias", &FpropArgs::bias},
                                                          {"y", &FpropArgs::y},
                                                          {"code", &FpropArgs::code}};
const Members<DgradArgs> Direction<DgradArgs>::members = {
    {"dy", &DgradArgs::dy}, {"code", &DgradArgs::code}, {"w", &DgradArgs::w}, {"dx", &DgradArgs::dx}};
const Members<WgradArgs> Direction<WgradArgs>::members = {{"x", &WgradArgs::x},
                                                          {"dy", &WgradArgs::dy},
                                                          {"code", &WgradArgs::code},
                                                          {"dw", &WgradArgs::dw},
                                                          {"dbias", &WgradArgs::dbias}};

Tensor code_tensor(const OptionalBuffer& spec, const Conv2dProblem& problem, int64_t pool_bytes) {
    if (!spec) return {};
    const Conv2d& conv = problem.conv;
    if (problem.epilogue.activation == Activation::none)
        throw std::invalid_argument("code must be None where there is neither ReLU nor pool");
    if (problem.epilogue.pooled) {
        const int64_t P = problem.pool.P, Q = problem.pool.Q;
        Tensor code = optional_tensor(Strides::any, spec, "code", DType::uint8, {conv.N, pool_bytes, P, Q});
        const int64_t wanted[4] = {P * Q * pool_bytes, 1, Q * pool_bytes, pool_bytes};
        for (int i = 0; i < 4; ++i)
            if (code.size[i] > 1 && code.stride[i] != wanted[i])
                throw std::invalid_argument("code must be channels_last");
        // torch may give a dimension of size 1 any stride. The kernels expect the dense one.
        for (int i = 0; i < 4; ++i) code.stride[i] = wanted[i];
        return code;
    }
    const std::vector<int64_t> size = {conv.N, conv.P, (conv.Q + 7) / 8, conv.K};
    const Tensor code = optional_tensor(Strides::any, spec, "code", DType::uint8, size);
    int64_t dense = 1;
    for (int i = 3; i >= 0; dense *= size[i--])
        if (size[i] > 1 && code.stride[i] != dense) throw std::invalid_argument("code must be contiguous");
    return code;
}

}  // namespace fastconv::python
