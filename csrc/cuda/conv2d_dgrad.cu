#include "conv2d_dgrad.cuh"

#include "conv2d_launch.h"

namespace fastconv::cuda {

namespace {

template <class T, class Tile>
std::string run(const Conv2dProblem& problem, const DgradArgs& args, simt::Stream stream) {
    constexpr int vector = Tile::vector;
    DgradParameters<T> d;
    d.gradient.view = GradientView<T>(problem, args.dy, args.code);
    d.w.view = {static_cast<const T*>(args.w.data)};
    d.dx = static_cast<T*>(args.dx.data);
    d.conv = Geometry(problem.conv);
    const Geometry& conv = d.conv;
    d.dy_strides = Strides(args.dy), d.w_strides = Strides(args.w), d.dx_strides = Strides(args.dx);
    const int common_h = greatest_common_divisor(conv.dilation_h, conv.stride_h);
    const int common_w = greatest_common_divisor(conv.dilation_w, conv.stride_w);
    d.tap_step_h = conv.stride_h / common_h, d.output_step_h = conv.dilation_h / common_h;
    d.tap_step_w = conv.stride_w / common_w, d.output_step_w = conv.dilation_w / common_w;
    d.phases_h = least(conv.stride_h, conv.H), d.phases_w = least(conv.stride_w, conv.W);
    d.pixels = Pixels(ceil_div(conv.H, conv.stride_h), ceil_div(conv.W, conv.stride_w));
    d.rows = conv.N * d.pixels.height.divisor * d.pixels.width.divisor;
    d.row_tiles = ceil_div(d.rows, Tile::rows);
    d.column_tiles = ceil_div(conv.channels, Tile::columns);

    d.filters_inside = channels_last(args.dy);
    d.gradient.access = gradient_vectors(problem, args.dy, args.code, conv.filters, vector, sizeof(T))
                            ? Access::step_vectors
                            : Access::lines;
    const bool in_order = !d.filters_inside && !channels_last(args.w);
    d.w.access = channel_vectors(args.w, conv.channels, vector, sizeof(T)) ? Access::line_vectors
                 : in_order                                                ? Access::steps
                                                                           : Access::lines;
    d.along_columns = channels_last(args.dx);
    d.vectors = channel_vectors(args.dx, conv.channels, Tile::column_chunk, sizeof(T));

    const int64_t row_blocks = int64_t(d.row_tiles) * d.phases_h * d.phases_w;
    const std::string too_many = refuse({{"the number of blocks of pixels", row_blocks}}, most_counted);
    if (!too_many.empty()) return too_many;
    const int64_t columns = int64_t(d.column_tiles) * conv.groups;
    const std::string refused = refuse({{"the number of blocks", row_blocks * columns}}, most_counted);
    if (!refused.empty()) return refused;
    return simt::launch(conv2d_dgrad_kernel<T, Tile>, {int(row_blocks * columns)}, Tile::threads,
                        shared_bytes<DgradMemory<Tile>>(), stream, d);
}

// All phases together; their taps differ by one each way at most.
template <class Tile>
Work work(const Conv2dProblem& problem, bool filters_inside) {
    const Conv2d& c = problem.conv;
    const int64_t channels = c.C / c.groups, filters = c.K / c.groups, phases = c.stride_h * c.stride_w;
    const int64_t pixels = ceil_div(c.H, c.stride_h) * ceil_div(c.W, c.stride_w);
    return {ceil_div(c.N * pixels, Tile::rows) * phases * ceil_div(channels, Tile::columns) * c.groups,
            double(filters * c.R * c.S) / double(phases), filters_inside && filters % Tile::vector == 0};
}

}  // namespace

std::vector<std::string> conv2d_dgrad_variants(const Conv2dProblem& problem) {
    return tile_names(problem, [&](auto tile) { return work<decltype(tile)>(problem, true); });
}

size_t conv2d_dgrad_workspace(const Conv2dProblem&) { return 0; }

std::string conv2d_dgrad(const Conv2dProblem& problem, const DgradArgs& args, void*, simt::Stream stream) {
    const std::string refused = refuse(problem);
    if (!refused.empty()) return refused;
    const Conv2d& conv = problem.conv;
    if (conv.N * conv.H * conv.W == 0 || conv.C == 0) return "";
    return with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        const auto work_of = [&](auto tile) { return work<decltype(tile)>(problem, channels_last(args.dy)); };
        return with_tile<T>(problem, work_of, [&](auto tile) { return run<T, decltype(tile)>(problem, args, stream); });
    });
}

}  // namespace fastconv::cuda
