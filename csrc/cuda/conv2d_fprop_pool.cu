// The launcher of fprop with a max-pool. On tensor cores, 2x2 windows are pooled in registers; all others in shared
// memory.
#include "conv2d_fprop.h"
#include "conv2d_fprop_pool.cuh"
#include "conv2d_fprop_pool2x2.cuh"
#include "conv2d_implementations.h"
#include "conv2d_tiles.h"

namespace fastconv::cuda {

namespace {

template <class T, class Tile>
void run_any(const Conv2dProblem& problem, const FpropArgs& args, const Launch& launch) {
    const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
    FpropPoolOutput<T> out{pool_output<T>(problem, args, 2), {}, {}, {}};
    out.tiling = PoolTiling(out.pool, Tile::rows);
    out.width = Divider(out.tiling.width);
    out.pooled_w = Divider(out.tiling.pooled_w);
    const int64_t tiles = int64_t(out.tiling.tiles_h) * out.tiling.tiles_w;
    check(refuse({{"the number of a pool's tiles", tiles}}, most_reached));
    const int64_t images = int64_t(in.conv.N) * in.conv.groups;
    check(refuse({{"N * groups", images}}, most_reached));
    const int64_t blocks = tiles * images;
    check(refuse({{"the number of blocks of pixels", blocks}}, most_counted / in.column_tiles));
    check(simt::launch(conv2d_fprop_pool_kernel<T, Tile>, {int(blocks * in.column_tiles)}, Tile::threads,
                       shared_bytes<FpropPoolMemory<Tile>>(), launch.stream, in, out));
}

// Whether windows are 2x2 and do not overlap.
bool apart_2x2(const Pool2d& pool) {
    return pool.window_h == 2 && pool.window_w == 2 && pool.dilation_h < pool.stride_h &&
           pool.dilation_w < pool.stride_w;
}

template <class T, class Tile>
void run_2x2(const Conv2dProblem& problem, const FpropArgs& args, const Launch& launch) {
    const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
    FpropPool2x2Output<T> out{pool_output<T>(problem, args, Tile::vector), {}, 0, 0};
    out.pixels = Pixels(out.pool.P, out.pool.Q);
    out.windows = in.conv.N * out.pool.P * out.pool.Q;  // fewer than N * P * (Q + 7)
    out.window_tiles = ceil_div(out.windows, Tile::rows / 4);
    const int64_t blocks = int64_t(in.column_tiles) * out.window_tiles * in.conv.groups;
    check(refuse({{"the number of blocks", blocks}}, most_counted));
    check(simt::launch(conv2d_fprop_pool2x2_kernel<T, Tile>, {int(blocks)}, Tile::threads,
                       shared_bytes<GemmMemory<Tile>>(), launch.stream, in, out));
}

struct FpropPool {
    using Args = FpropArgs;
    static constexpr const char* condition = ", with a pool";
    static bool takes(const Conv2dProblem& problem) { return problem.epilogue.pooled && has_output(problem); }
    template <class Tile>
    static Work work(const Conv2dProblem& problem) {
        return fprop_work<Tile>(problem);
    }
    template <class Tile>
    static size_t workspace(const Conv2dProblem&) {
        return 0;
    }
    template <class T, class Tile>
    static void run(const Conv2dProblem& problem, const FpropArgs& args, const Launch& launch) {
        if constexpr (Tile::tensor_cores)
            if (apart_2x2(problem.pool)) return run_2x2<T, Tile>(problem, args, launch);
        run_any<T, Tile>(problem, args, launch);
    }
};

}  // namespace

Implementations<FpropArgs> fprop_pool_tiles() { return tiles_of<FpropPool>(); }

}  // namespace fastconv::cuda
