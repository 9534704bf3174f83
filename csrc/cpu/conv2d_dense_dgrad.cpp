// conv2d gradient of the input for dense gradients and stride 1, which is a convolution too:
//
//   dx[n, c, h, w] = sum over k, r, s of dy[n, k, h + pad - r, w + pad - s] * w[k, c, r, s]
//
// that is, of dy with the filters turned around and C and K exchanged. So the forward kernels compute it,
// from strides that say so.
#include "elements.h"
#include "isa_kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

Conv2dProblem as_fprop(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    Conv2dProblem turned = problem;
    turned.conv.C = conv.K, turned.conv.H = conv.P, turned.conv.W = conv.Q;
    turned.conv.K = conv.C, turned.conv.P = conv.H, turned.conv.Q = conv.W;
    turned.conv.pad_h = (conv.R - 1) * conv.dilation_h - conv.pad_h;
    turned.conv.pad_w = (conv.S - 1) * conv.dilation_w - conv.pad_w;
    turned.pool = {};
    turned.pool.P = conv.H, turned.pool.Q = conv.W;
    return turned;
}

template <const Implementation<FpropArgs>& fprop>
bool applies(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    if (problem.epilogue != Epilogue::none || conv.stride_h != 1 || conv.stride_w != 1 || conv.groups != 1)
        return false;
    const Conv2dProblem turned = as_fprop(problem);
    return turned.conv.pad_h >= 0 && turned.conv.pad_w >= 0 && fprop.applies(turned);
}

template <const Implementation<FpropArgs>& fprop>
size_t workspace(const Conv2dProblem& problem) {
    return fprop.workspace(as_fprop(problem));
}

template <const Implementation<FpropArgs>& fprop>
void run(const Conv2dProblem& problem, const DgradArgs& args, void* space) {
    Tensor w = args.w;
    w.data = address(w, (w.size[2] - 1) * w.stride[2] + (w.size[3] - 1) * w.stride[3]);  // the last position
    w.size[0] = args.w.size[1], w.stride[0] = args.w.stride[1];
    w.size[1] = args.w.size[0], w.stride[1] = args.w.stride[0];
    w.stride[2] = -w.stride[2], w.stride[3] = -w.stride[3];
    fprop.run(as_fprop(problem), {args.dy, w, {}, args.dx, {}}, space);
}

}  // namespace

extern const Implementation<DgradArgs> winograd_dgrad, direct_dgrad;
const Implementation<DgradArgs> winograd_dgrad = {"winograd", applies<winograd_fprop>, workspace<winograd_fprop>,
                                                  run<winograd_fprop>, false};
const Implementation<DgradArgs> direct_dgrad = {"direct", applies<direct_fprop>, workspace<direct_fprop>,
                                                run<direct_fprop>};

}  // namespace fastconv::cpu::FASTCONV_ISA
