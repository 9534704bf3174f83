// The gradient of the input, for stride 1, is a convolution too:
//
//   dx[n, c, h, w] = sum over k, r, s of dy[n, k, h + pad - r, w + pad - s] * w[k, c, r, s]
//
// that is, of dy with the filters turned around and C and K exchanged. So forward kernels compute it, from strides that
// say so.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

inline Conv2dProblem dgrad_as_fprop(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    Conv2dProblem turned = problem;
    turned.conv.C = conv.K, turned.conv.H = conv.P, turned.conv.W = conv.Q;
    turned.conv.K = conv.C, turned.conv.P = conv.H, turned.conv.Q = conv.W;
    turned.conv.pad_h = (conv.R - 1) * conv.dilation_h - conv.pad_h;
    turned.conv.pad_w = (conv.S - 1) * conv.dilation_w - conv.pad_w;
    turned.epilogue = Epilogue::none;
    turned.pool = {};
    turned.pool.P = conv.H, turned.pool.Q = conv.W;
    return turned;
}

// x is dy, or what it stands for.
inline FpropArgs dgrad_as_fprop(const DgradArgs& args) {
    Tensor w = args.w;
    w.data = address(w, (w.size[2] - 1) * w.stride[2] + (w.size[3] - 1) * w.stride[3]);  // the last position
    w.size[0] = args.w.size[1], w.stride[0] = args.w.stride[1];
    w.size[1] = args.w.size[0], w.stride[1] = args.w.stride[0];
    w.stride[2] = -w.stride[2], w.stride[3] = -w.stride[3];
    return {args.dy, w, {}, args.dx, {}};
}

// Whether a forward kernel computes this gradient.
inline bool dgrad_as_fprop_applies(const Conv2dProblem& problem, bool (*fprop_applies)(const Conv2dProblem&)) {
    const Conv2d& conv = problem.conv;
    if (conv.stride_h != 1 || conv.stride_w != 1 || conv.groups != 1) return false;
    const Conv2dProblem turned = dgrad_as_fprop(problem);
    return turned.conv.pad_h >= 0 && turned.conv.pad_w >= 0 && fprop_applies(turned);
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
