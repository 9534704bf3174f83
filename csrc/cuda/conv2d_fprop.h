// The kernel arguments that all launchers of fprop build: its input, its output and the work per tile.
#pragma once

#include "conv2d_fprop.cuh"
#include "conv2d_launch.h"
#include "conv2d_pool_output.cuh"
#include "cycles.h"

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
    const bool channels_inside = problem.layouts.x.channels_inside || problem.layouts.w.channels_inside;
    in.taps = Taps(in.conv.channels, in.conv.R, in.conv.S, channels_inside);
    in.steps = in.conv.channels * in.conv.R * in.conv.S;
    in.column_tiles = ceil_div(in.conv.filters, Tile::columns);
    in.x.access = has_vectors<T>(problem.layouts.x, vector) ? Access::step_vectors : Access::lines;
    const bool vectors = in_order_of_taps(args.w, channels_inside) && in.steps % vector == 0 &&
                         reinterpret_cast<uintptr_t>(args.w.data) % (vector * sizeof(T)) == 0;
    in.w.access = vectors ? Access::step_vectors : Access::steps;
    if constexpr (Tile::tensor_cores) {
        const auto counter = [&](const Coord& one_c, const Coord& one_r, const Coord& one_s) {
            const Axis c{in.conv.channels, one_c}, r{in.conv.R, one_r}, s{in.conv.S, one_s};
            return channels_inside ? StepCounter(c, s, r, Tile::steps, 0) : StepCounter(s, r, c, Tile::steps, 0);
        };
        const int h = in.conv.dilation_h, w = in.conv.dilation_w;
        in.x_counter =
            counter({in.x_strides.c, 0, 0, 0, 0}, {in.x_strides.h * h, h, 0, 0, 0}, {in.x_strides.w * w, 0, w, 0, 0});
        in.w_counter =
            counter({in.w_strides.c, 0, 0, 0, 0}, {in.w_strides.h, 0, 0, 0, 0}, {in.w_strides.w, 0, 0, 0, 0});
    }
    return in;
}

template <class T, class Tile>
FpropOutput<T> fprop_output(const Conv2dProblem& problem, const FpropArgs& args) {
    FpropOutput<T> out;
    out.y = static_cast<T*>(args.y.data);
    out.code = static_cast<uint8_t*>(args.code.data);
    out.strides = Strides(args.y);
    out.relu = problem.epilogue.activation == Activation::relu;
    out.along_columns = problem.layouts.y.channels_inside;
    out.vectors = has_vectors<T>(problem.layouts.y, Tile::column_chunk);
    return out;
}

// The work with a tile whose rows are pixels. It is approximate: pixels that two blocks compute count once.
template <class Tile>
Work fprop_work(const Conv2dProblem& problem) {
    const Conv2d& c = problem.conv;
    const Pool2d& pool = problem.pool;  // 1x1 where there is none
    const int64_t channels = c.C / c.groups, filters = c.K / c.groups;
    const int64_t rows = c.N * pool.P * pool.stride_h * pool.Q * pool.stride_w;
    return {ceil_div(rows, Tile::rows) * ceil_div(filters, Tile::columns) * c.groups, double(channels * c.R * c.S),
            problem.layouts.x.channels_inside && channels % Tile::vector == 0};
}

// each: neighboring filters that a thread writes.
template <class T>
PoolOutput<T> pool_output(const Conv2dProblem& problem, const FpropArgs& args, int each) {
    PoolOutput<T> out;
    out.y = static_cast<T*>(args.y.data);
    out.code = static_cast<uint8_t*>(args.code.data);
    out.strides = Strides(args.y);
    out.pool = PoolGeometry(problem.pool);
    out.groups = int(problem.conv.groups);
    out.filters = int(problem.conv.K) / out.groups;
    out.bytes = group_code_bytes(problem);
    out.nibbles = has_nibbles(problem.pool);
    out.vectors = has_vectors<T>(problem.layouts.y, each);
    out.code_vectors = out.filters % each == 0 && problem.layouts.code.vector_bytes >= each / 2;
    return out;
}

inline bool has_output(const Conv2dProblem& problem) {
    return problem.conv.N * problem.conv.K * problem.pool.P * problem.pool.Q > 0;
}

}  // namespace fastconv::cuda
