// The kernels of one instruction set, which kernel_set.cpp puts into its lists. A set that adds kernels to another one,
// FASTCONV_BASE, has only these: all others are the base's objects.
#pragma once

#include "kernels.h"

#if !defined(FASTCONV_BASE)
#define FASTCONV_BASE FASTCONV_ISA
#endif

namespace fastconv::cpu::FASTCONV_BASE {

void relu_fprop(DType, const void* x, void* y, uint8_t* mask, int64_t count, int threads);
void relu_bprop(DType, const void* dy, const uint8_t* mask, void* dx, int64_t count, int threads);
void max_pool2d_fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d&, int threads);
void max_pool2d_bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d&, int threads);

extern const Implementation<FpropArgs> depthwise_fprop, grouped_fprop, winograd_fprop, direct_fprop;
extern const Implementation<DgradArgs> depthwise_dgrad, grouped_dgrad, winograd_dgrad, direct_dgrad, live_dgrad;
extern const Implementation<WgradArgs> depthwise_wgrad, grouped_wgrad, winograd_wgrad, dense_wgrad, live_wgrad;

}  // namespace fastconv::cpu::FASTCONV_BASE

namespace fastconv::cpu::FASTCONV_ISA {

// Groups of fewer channels are left to the grouped kernels.
constexpr int64_t least_live_channels = 4;  // channels of x per group, in the kernels of live gradients
constexpr int64_t least_direct_share = 4;   // filters of a group fill 1 / this of a vector, in the direct kernel

// Of bfloat16 pairs (terms.h).
extern const Implementation<FpropArgs> direct_bf16_fprop;
extern const Implementation<DgradArgs> direct_bf16_dgrad;
extern const Implementation<WgradArgs> dense_bf16_wgrad;
// On matrix tiles (tiles.h).
extern const Implementation<FpropArgs> tiles_bf16_fprop, tiles_fprop;
extern const Implementation<DgradArgs> tiles_bf16_dgrad, tiles_dgrad;
extern const Implementation<WgradArgs> tiles_bf16_wgrad;

}  // namespace fastconv::cpu::FASTCONV_ISA
