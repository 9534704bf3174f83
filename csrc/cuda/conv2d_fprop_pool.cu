#include "conv2d_fprop_pool.cuh"

#include "conv2d_fprop.h"

namespace fastconv::cuda {

namespace {

template <class T, class Tile>
std::string run(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
    FpropPoolOutput<T> out{pool_output<T>(problem, args), {}, {}, {}};
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

}  // namespace

std::string conv2d_fprop_pool(const Conv2dProblem& problem, const FpropArgs& args, simt::Stream stream) {
    return with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        const auto work_of = [&](auto tile) { return fprop_work<decltype(tile)>(problem, channels_last(args.x)); };
        return with_tile<T>(problem, work_of, [&](auto tile) { return run<T, decltype(tile)>(problem, args, stream); });
    });
}

}  // namespace fastconv::cuda
