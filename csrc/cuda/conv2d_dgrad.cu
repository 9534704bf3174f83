// The launcher of dgrad, the gradient of a convolution's input.
#include "conv2d_dgrad.cuh"

#include "conv2d_implementations.h"
#include "conv2d_tiles.h"

namespace fastconv::cuda {

namespace {

struct Dgrad {
    using Args = DgradArgs;
    static constexpr const char* condition = "";
    static bool takes(const Conv2dProblem& problem) {
        const Conv2d& c = problem.conv;
        return c.N * c.H * c.W > 0 && c.C > 0;
    }

    // The work of all phases together. Their numbers of taps differ by at most one along each axis.
    template <class Tile>
    static Work work(const Conv2dProblem& problem) {
        const Conv2d& c = problem.conv;
        const int64_t channels = c.C / c.groups, filters = c.K / c.groups, phases = c.stride_h * c.stride_w;
        const int64_t pixels = ceil_div(c.H, c.stride_h) * ceil_div(c.W, c.stride_w);
        return {ceil_div(c.N * pixels, Tile::rows) * phases * ceil_div(channels, Tile::columns) * c.groups,
                double(filters * c.R * c.S) / double(phases),
                problem.layouts.y.channels_inside && filters % Tile::vector == 0};
    }
    template <class Tile>
    static size_t workspace(const Conv2dProblem&) {
        return 0;
    }

    template <class T, class Tile>
    static void run(const Conv2dProblem& problem, const DgradArgs& args, const Launch& launch) {
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

        d.filters_inside = problem.layouts.y.channels_inside;
        d.gradient.access = gradient_vectors<T>(problem, vector) ? Access::step_vectors : Access::lines;
        const bool in_order = !d.filters_inside && !problem.layouts.w.channels_inside;
        d.w.access = has_vectors<T>(problem.layouts.w, vector) ? Access::line_vectors
                     : in_order                                ? Access::steps
                                                               : Access::lines;
        d.along_columns = problem.layouts.x.channels_inside;
        d.vectors = has_vectors<T>(problem.layouts.x, Tile::column_chunk);

        const int64_t row_blocks = int64_t(d.row_tiles) * d.phases_h * d.phases_w;
        check(refuse({{"the number of blocks of pixels", row_blocks}}, most_counted));
        const int64_t columns = int64_t(d.column_tiles) * conv.groups;
        check(refuse({{"the number of blocks", row_blocks * columns}}, most_counted));
        check(simt::launch(conv2d_dgrad_kernel<T, Tile>, {int(row_blocks * columns)}, Tile::threads,
                           shared_bytes<DgradMemory<Tile>>(), launch.stream, d));
    }
};

}  // namespace

Implementations<DgradArgs> dgrad_tiles() { return tiles_of<Dgrad>(); }

}  // namespace fastconv::cuda
