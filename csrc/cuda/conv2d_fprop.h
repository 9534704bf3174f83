// The two forward kernels' common launch data; conv2d_fprop.cu and conv2d_fprop_pool.cu compile one each.
#pragma once

#include "conv2d_fprop.cuh"
#include "conv2d_launch.h"

namespace fastconv::cuda {

template <class T, class Tile>
FpropInput<T> fprop_input(const Conv2dProblem& problem, const FpropArgs& args) {
    constexpr int vector = Tile::vector;
    FpropInput<T> in;
    in.conv = Geometry(problem.conv);
    in.x.view = {static_cast<const T*>(args.x.data), in.conv.H, in.conv.W};
    in.w.view = {static_cast<const T*>(args.w.data)};
    in.bias = static_cast<const T*>(args.bias.data);
    in.bias_stride = args.bias.stride[0];
    in.x_strides = Strides(args.x), in.w_strides = Strides(args.w);
    const bool channels_inside = channels_last(args.x) || channels_last(args.w);
    in.taps = Taps(in.conv.channels, in.conv.R, in.conv.S, channels_inside);
    in.steps = in.conv.channels * in.conv.R * in.conv.S;
    in.column_tiles = ceil_div(in.conv.filters, Tile::columns);
    in.x.lanes = channel_vectors(args.x, in.conv.channels, vector, sizeof(T)) ? Lanes::step_vectors : Lanes::lines;
    const bool vectors = in_order_of_taps(args.w, channels_inside) && in.steps % vector == 0 &&
                         reinterpret_cast<uintptr_t>(args.w.data) % (vector * sizeof(T)) == 0;
    in.w.lanes = vectors ? Lanes::step_vectors : Lanes::steps;
    return in;
}

std::string conv2d_fprop_pool(const Conv2dProblem&, const FpropArgs&, simt::Stream stream);

}  // namespace fastconv::cuda
