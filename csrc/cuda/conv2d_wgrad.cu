// The launcher of wgrad, the gradients of a convolution's weight and bias.
#include "conv2d_wgrad.cuh"

#include "conv2d_implementations.h"
#include "conv2d_tiles.h"
#include "conv2d_wgrad.h"

namespace fastconv::cuda {

namespace {

template <class Tile>
WgradSize size_of(const Geometry& conv) {
    return {conv, Tile::rows, Tile::columns, int64_t(conv.N) * conv.P * conv.Q};
}

template <class T, class Tile, int access>
void launch_wgrad(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch) {
    using Acc = Accumulator<T>;
    constexpr int vector = Tile::vector;
    WgradParameters<T, access> d;
    d.conv = Geometry(problem.conv);
    const Geometry& conv = d.conv;
    d.x.view = {static_cast<const T*>(args.x.data), conv.H, conv.W};
    d.gradient.view = GradientView<T>(problem, args.dy, args.code);
    d.partial = static_cast<Acc*>(launch.workspace);
    d.x_strides = Strides(args.x), d.dy_strides = Strides(args.dy);
    d.pixels = Pixels(conv.P, conv.Q);
    const WgradRows rows(conv, problem.layouts, args);
    d.taps = rows.taps;
    d.weight_rows = rows.weights, d.rows = rows.all;
    d.steps = conv.N * conv.P * conv.Q;
    const Split split = split_of<Tile>(size_of<Tile>(conv));
    d.steps_per_split = split.steps_per_split;
    d.row_tiles = ceil_div(d.rows, Tile::rows);
    d.column_tiles = ceil_div(conv.filters, Tile::columns);
    const auto access_of = [](const Layout& layout, bool vectors) {
        if (vectors && (access & int(Access::line_vectors))) return Access::line_vectors;
        return layout.channels_inside ? Access::lines : Access::steps;
    };
    d.x.access = access_of(problem.layouts.x, has_vectors<T>(problem.layouts.x, vector));
    d.gradient.access = access_of(problem.layouts.y, gradient_vectors<T>(problem, vector));

    if constexpr (Tile::tensor_cores) {
        const auto counter = [&](const Coord& one_n, const Coord& one_p, const Coord& one_q, int lines) {
            return StepCounter({conv.Q, one_q}, {conv.P, one_p}, {conv.N, one_n}, Tile::steps,
                               Tile::chunk_stride(lines));
        };
        const int h = conv.stride_h, w = conv.stride_w;
        d.x_counter = counter({d.x_strides.n, 0, 0, 0, 0}, {d.x_strides.h * h, h, 0, 0, 0},
                              {d.x_strides.w * w, 0, w, 0, 0}, Tile::rows);
        d.gradient_counter = counter({d.dy_strides.n, 0, 0, 1, 0}, {d.dy_strides.h, 1, 0, 0, 0},
                                     {d.dy_strides.w, 0, 1, 0, 0}, Tile::columns);
    }

    const int64_t tiles = int64_t(d.row_tiles) * d.column_tiles * conv.groups;
    check(refuse_wgrad(conv, rows, tiles, split.splits));
    check(simt::launch(conv2d_wgrad_kernel<T, Tile, access>, {int(tiles * split.splits)}, Tile::threads,
                       shared_bytes<WgradMemory<Tile>>(), launch.stream, d));
    conv2d_wgrad_sum(problem, args, launch, split.splits);
}

struct Wgrad {
    using Args = WgradArgs;
    static constexpr const char* condition = "";
    static bool takes(const Conv2dProblem& problem) { return problem.conv.K > 0; }

    template <class Tile>
    static Work work(const Conv2dProblem& problem) {
        const Geometry conv(problem.conv);
        const bool channels_inside = problem.layouts.x.channels_inside && problem.layouts.y.channels_inside;
        const bool vectors = channels_inside && conv.channels % Tile::vector == 0 && conv.filters % Tile::vector == 0;
        const WgradSize size = size_of<Tile>(conv);
        return work_of<Tile>(size, split_of<Tile>(size), vectors);
    }
    template <class Tile>
    static size_t workspace(const Conv2dProblem& problem) {
        return wgrad_workspace(problem, split_of<Tile>(size_of<Tile>(Geometry(problem.conv))).splits);
    }

    template <class T, class Tile>
    static void run(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch) {
        constexpr int by_elements = Access::lines | Access::steps, any = by_elements | Access::line_vectors;
        if (!args.dw.data && !args.dbias.data) return;
        if constexpr (Tile::tensor_cores) {
            constexpr int vector = 16 / int(sizeof(T));
            if (has_vectors<T>(problem.layouts.x, vector) && gradient_vectors<T>(problem, vector))
                return launch_wgrad<T, Tile, int(Access::line_vectors)>(problem, args, launch);
            launch_wgrad<T, Tile, by_elements>(problem, args, launch);
        } else {
            launch_wgrad<T, Tile, any>(problem, args, launch);
        }
    }
};

}  // namespace

Implementations<WgradArgs> wgrad_tiles() { return tiles_of<Wgrad>(); }

}  // namespace fastconv::cuda
