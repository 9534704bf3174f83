// The launcher of wgrad's second kernel, which adds up the sums of the splits.
#include "conv2d_wgrad_sum.cuh"

#include "conv2d_wgrad.h"

namespace fastconv::cuda {

void conv2d_wgrad_sum(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch, int splits) {
    with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        const WgradRows rows(Geometry(problem.conv), problem.layouts, args);
        WgradSumParameters<T> sum;
        sum.partial = static_cast<const Accumulator<T>*>(launch.workspace);
        sum.dw = static_cast<T*>(args.dw.data), sum.dbias = static_cast<T*>(args.dbias.data);
        sum.strides = Strides(args.dw);
        sum.dbias_stride = args.dbias.stride[0];
        sum.rows = Divider(rows.all);
        sum.taps = rows.taps;
        sum.weight_rows = rows.weights;
        sum.splits = splits;
        sum.count = int(problem.conv.K) * rows.all;
        check(simt::launch(conv2d_wgrad_sum_kernel<T>, {ceil_div(sum.count, 32)}, wgrad_sum_threads,
                           shared_bytes<WgradSumMemory<T>>(), launch.stream, sum));
    });
}

}  // namespace fastconv::cuda
