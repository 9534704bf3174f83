// The launcher of fprop without a pool.
#include "conv2d_fprop.h"
#include "conv2d_implementations.h"
#include "conv2d_tiles.h"

namespace fastconv::cuda {

namespace {

struct Fprop {
    using Args = FpropArgs;
    static constexpr const char* condition = ", without a pool";
    static bool takes(const Conv2dProblem& problem) { return !problem.epilogue.pooled && has_output(problem); }
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
        const FpropInput<T> in = fprop_input<T, Tile>(problem, args);
        const FpropOutput<T> out = fprop_output<T, Tile>(problem, args);
        const int width = out.code ? ceil_div(in.conv.Q, 8) * 8 : in.conv.Q;
        const Pixels pixels(in.conv.P, width);
        const int row_tiles = ceil_div(in.conv.N * in.conv.P * width, Tile::rows);
        const int64_t blocks = int64_t(in.column_tiles) * row_tiles * in.conv.groups;
        check(refuse({{"the number of blocks", blocks}}, most_counted));
        check(simt::launch(conv2d_fprop_kernel<T, Tile>, {int(blocks)}, Tile::threads, shared_bytes<GemmMemory<Tile>>(),
                           launch.stream, in, out, pixels, row_tiles));
    }
};

}  // namespace

Implementations<FpropArgs> fprop_tiles() { return tiles_of<Fprop>(); }

}  // namespace fastconv::cuda
