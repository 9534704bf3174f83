// The set of kernels that each instruction set provides.
#pragma once

#include "../common/implementation.h"

namespace fastconv::cpu {

// The kernels that are compiled once per instruction set.
struct KernelSet {
    const char* name;
    bool (*runs_here)();
    // Each direction's implementations in the order in which they are tried; null ends a list.
    const Implementation<FpropArgs>* const* fprop;
    const Implementation<DgradArgs>* const* dgrad;
    const Implementation<WgradArgs>* const* wgrad;
    // Arrays are dense and have `count` elements. Bit i % 8 of the mask's byte i / 8 is set if x[i] > 0 or NaN.
    void (*relu_fprop)(DType, const void* x, void* y, uint8_t* mask, int64_t count, int threads);
    void (*relu_bprop)(DType, const void* dy, const uint8_t* mask, void* dx, int64_t count, int threads);
    // code: uint8 (255 for a window without input) or int32 (-1), or null data.
    void (*max_pool2d_fprop)(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d&, int threads);
    void (*max_pool2d_bprop)(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d&, int threads);
};

// The plain implementations take every problem, on any CPU.
extern const Implementation<FpropArgs> plain_fprop;
extern const Implementation<DgradArgs> plain_dgrad;
extern const Implementation<WgradArgs> plain_wgrad;

}  // namespace fastconv::cpu
