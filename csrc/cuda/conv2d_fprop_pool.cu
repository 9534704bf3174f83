#include "conv2d_fprop_pool.cuh"

#include "conv2d_fprop.h"
#include "conv2d_fprop_pool2x2.cuh"

namespace fastconv::cuda {

namespace {

template <class T, class Tile>
std::string run(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
    FpropPoolOutput<T> out{pool_output<T>(problem, args, 2), {}, {}, {}};
    out.tiling = PoolTiling(out.pool, Tile::rows);
    out.width = Divider(out.tiling.width);
    out.pooled_w = Divider(out.tiling.pooled_w);
    const int64_t tiles = int64_t(out.tiling.tiles_h) * out.tiling.tiles_w;
    const std::string too_many = refuse({{"the number of a pool's tiles", tiles}}, most_reached);
    if (!too_many.empty()) return too_many;
    const int64_t images = int64_t(in.conv.N) * in.conv.groups;
    const std::string still = refuse({{"N * groups", images}}, most_reached);
    if (!still.empty()) return still;
    const int64_t blocks = tiles * images;
    const std::string refused = refuse({{"the number of blocks of pixels", blocks}}, most_counted / in.column_tiles);
    if (!refused.empty()) return refused;
    return simt::launch(conv2d_fprop_pool_kernel<T, Tile>, {int(blocks * in.column_tiles)}, Tile::threads,
                        shared_bytes<FpropPoolMemory<Tile>>(), stream, in, out);
}

// Whether windows are 2x2 and have no position in common.
bool apart_2x2(const Pool2d& pool) {
    return pool.window_h == 2 && pool.window_w == 2 && pool.dilation_h < pool.stride_h &&
           pool.dilation_w < pool.stride_w;
}

template <class T, class Tile>
std::string run_2x2(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
    FpropPool2x2Output<T> out{pool_output<T>(problem, args, Tile::vector), {}, 0, 0};
    out.pixels = Pixels(out.pool.P, out.pool.Q);
    out.windows = in.conv.N * out.pool.P * out.pool.Q;  // fewer than N * P * (Q + 7)
    out.window_tiles = ceil_div(out.windows, Tile::rows / 4);
    const int64_t blocks = int64_t(in.column_tiles) * out.window_tiles * in.conv.groups;
    const std::string refused = refuse({{"the number of blocks", blocks}}, most_counted);
    if (!refused.empty()) return refused;
    return simt::launch(conv2d_fprop_pool2x2_kernel<T, Tile>, {int(blocks)}, Tile::threads,
                        shared_bytes<GemmMemory<Tile>>(), stream, in, out);
}

}  // namespace

std::string conv2d_fprop_pool(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    return with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        const auto work_of = [&](auto tile) { return fprop_work<decltype(tile)>(problem, channels_last(args.x)); };
        return with_tile<T>(problem, work_of, [&](auto tile) {
            using Tile = decltype(tile);
            if constexpr (Tile::tensor_cores)
                if (apart_2x2(problem.pool)) return run_2x2<T, Tile>(problem, args, stream);
            return run<T, Tile>(problem, args, stream);
        });
    });
}

}  // namespace fastconv::cuda
