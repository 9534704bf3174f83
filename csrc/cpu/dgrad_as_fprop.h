// dgrad as forward convolutions, for the forward kernels. For stride 1 it is one convolution:
//
//   dx[n, c, h, w] = sum over k, r, s of dy[n, k, h + pad - r, w + pad - s] * w[k, c, r, s]
//
// It convolves dy with reversed filters, and C and K are exchanged. A larger stride needs one convolution per phase of
// dx: all rows h of the same h % stride_h see the same rows of the filters, and so do columns. Strides of the filter
// tensor express reversal and phases.
#pragma once

#include "kernels.h"
#include "vec.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// A phase along one axis: from one kernel position first + i * step, i < count, to the next, dy moves by `dilation`.
struct PhaseTaps {
    int64_t first, step, count, dilation, pad;

    PhaseTaps(int64_t phase, int64_t stride, int64_t pad_, int64_t dilation_, int64_t window) : first(0), step(1) {
        while (step < window && step * dilation_ % stride) ++step;  // counts up to `window`, since strides may be huge
        while (first < window && (phase + pad_ - first * dilation_) % stride) ++first;
        count = ceil_div(window - first, step);
        dilation = count > 1 ? step * dilation_ / stride : 1;
        pad = (count - 1) * dilation - (phase + pad_ - first * dilation_) / stride;
    }
};

struct Phase {
    int64_t h = 0, w = 0;

    PhaseTaps rows(const Conv2d& conv) const {
        return PhaseTaps(h, conv.stride_h, conv.pad_h, conv.dilation_h, conv.R);
    }
    PhaseTaps columns(const Conv2d& conv) const {
        return PhaseTaps(w, conv.stride_w, conv.pad_w, conv.dilation_w, conv.S);
    }
};

inline Conv2dProblem dgrad_as_fprop(const Conv2dProblem& problem, Phase phase = {}) {
    const Conv2d& conv = problem.conv;
    const PhaseTaps rows = phase.rows(conv), columns = phase.columns(conv);
    Conv2dProblem turned = problem;
    turned.conv.C = conv.K, turned.conv.H = conv.P, turned.conv.W = conv.Q;
    turned.conv.K = conv.C, turned.conv.R = rows.count, turned.conv.S = columns.count;
    turned.conv.P = ceil_div(conv.H - phase.h, conv.stride_h);
    turned.conv.Q = ceil_div(conv.W - phase.w, conv.stride_w);
    turned.conv.stride_h = turned.conv.stride_w = 1;
    turned.conv.pad_h = rows.pad, turned.conv.pad_w = columns.pad;
    turned.conv.dilation_h = rows.dilation, turned.conv.dilation_w = columns.dilation;
    turned.epilogue = {};
    turned.pool = {};
    turned.pool.P = turned.conv.P, turned.pool.Q = turned.conv.Q;
    return turned;
}

// x is dy, or the gradient made of dy and code.
inline FpropArgs dgrad_as_fprop(const Conv2dProblem& problem, const DgradArgs& args, Phase phase = {}) {
    const Conv2d& conv = problem.conv;
    const PhaseTaps rows = phase.rows(conv), columns = phase.columns(conv);
    const Conv2d& turned = dgrad_as_fprop(problem, phase).conv;
    Tensor w = args.w, dx = args.dx;
    w.data = address(w, (rows.first + (rows.count - 1) * rows.step) * w.stride[2] +  // the last position
                            (columns.first + (columns.count - 1) * columns.step) * w.stride[3]);
    w.size[0] = args.w.size[1], w.stride[0] = args.w.stride[1];
    w.size[1] = args.w.size[0], w.stride[1] = args.w.stride[0];
    w.size[2] = rows.count, w.stride[2] *= -rows.step;
    w.size[3] = columns.count, w.stride[3] *= -columns.step;
    dx.data = address(dx, phase.h * dx.stride[2] + phase.w * dx.stride[3]);
    dx.size[2] = turned.P, dx.stride[2] *= conv.stride_h;
    dx.size[3] = turned.Q, dx.stride[3] *= conv.stride_w;
    return {args.dy, w, {}, dx, {}};
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
