// Depthwise conv2d gradients of weight and bias, vectors over channels:
//
//   dw[r, s][c] = sum over n, p, q of g[n, p, q][c] * x[n, p * stride + r, q * stride + s][c]
//
// All rows of all images are cut into pieces, which are shared out to chunks. A work item has a chunk and a block of
// channels: piece by piece and vector by vector it packs x, with the padding on the left and right in place, and g,
// and keeps some of the kernel's positions in registers while it goes over the piece, so that every multiply-add reads
// one vector of x. Kernel rows that see only padding are left out. Then the chunks' sums are added up in order: dw is
// small beside x and so are these.
#include "depthwise.h"
#include "isa_kernels.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int max_taps = 10;  // what 16 vector registers hold beside g and x
constexpr int64_t least_items = 32;

template <class T>
struct WgradPlan {
    ChannelBlocks<T> blocks;
    int64_t rows, pieces_per_image, pieces;  // rows of g in a piece
    int64_t chunks;                          // of the pieces
    int64_t x_rows, x_columns;               // packed, of a piece
    int64_t sums;                            // vectors of sums for a vector of channels: dw's and the bias's

    explicit WgradPlan(const Conv2dProblem& problem) : blocks(problem.conv.K) {
        const Conv2d& conv = problem.conv;
        x_columns = (conv.Q - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1;
        // Of one vector of channels, so that a piece of all of the block's is in the second-level cache.
        for (pieces_per_image = 1;; ++pieces_per_image) {
            rows = ceil_div(conv.P, pieces_per_image);
            x_rows = min(conv.H, (rows - 1) * conv.stride_h + (conv.R - 1) * conv.dilation_h + 1);
            const int64_t pixels = x_rows * x_columns + rows * conv.Q;
            if (rows == 1) break;
            if (pixels * blocks.width * int64_t(sizeof(T)) <= depthwise_bytes &&
                conv.N * pieces_per_image * blocks.count >= least_items)
                break;
        }
        pieces_per_image = ceil_div(conv.P, rows), pieces = conv.N * pieces_per_image;
        chunks = min(pieces, ceil_div(least_items, blocks.count));
        sums = conv.R * conv.S + 1;
    }
};

template <class T>
struct WgradWorkspace {
    T* sums;            // [chunk][block][sum][width]
    T *x, *g, *pooled;  // of thread 0
    size_t per_thread, bytes;

    WgradWorkspace(const Conv2dProblem& problem, const WgradPlan<T>& plan, void* start) {
        Carver carver(start);
        sums = carver.take<T>(plan.chunks * plan.blocks.count * plan.sums * plan.blocks.width);
        const size_t shared = carver.used();
        x = carver.take<T>(plan.x_rows * plan.x_columns * lanes<T>);
        g = carver.take<T>(plan.rows * problem.conv.Q * lanes<T>);
        pooled = carver.take<T>(problem.pool.Q * lanes<T>);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
};

// Packed pixels, one vector each: g's side by side, the one of x that belongs to the next pixel x_pixel elements
// further and to the next row x_row.
struct Grid {
    int64_t rows, columns, x_row, x_pixel;
};

// sums[tap] += g * x[offset of the tap], over all pixels of a grid, for TAPS taps.
template <class T, int TAPS>
void add_taps(const Grid& grid, const T* g, const T* x, const int64_t* offsets, T* sums, int64_t sum_step) {
    constexpr int W = lanes<T>;
    Vec<T> acc[TAPS] = {};
    int64_t offset[TAPS];
    for (int t = 0; t < TAPS; ++t) offset[t] = offsets[t];
    for (int64_t p = 0; p < grid.rows; ++p, x += grid.x_row) {
        const T* at = x;
        for (int64_t q = 0; q < grid.columns; ++q, g += W, at += grid.x_pixel) {
            const Vec<T> value = load(g);
#pragma GCC unroll 10
            for (int t = 0; t < TAPS; ++t) acc[t] += value * load(at + offset[t]);
        }
    }
#pragma GCC unroll 10
    for (int t = 0; t < TAPS; ++t) store(sums + t * sum_step, load(sums + t * sum_step) + acc[t]);
}

template <class T>
using AddTaps = void (*)(const Grid&, const T*, const T*, const int64_t*, T*, int64_t);

// add_taps<T, taps> for a number known at run time.
template <class T, int TAPS = 1>
AddTaps<T> add_taps_for(int64_t taps) {
    if constexpr (TAPS < max_taps)
        if (taps > TAPS) return add_taps_for<T, TAPS + 1>(taps);
    return add_taps<T, TAPS>;
}

// Adds up rows first_p .. last_p of g, to which all of them the kernel rows `taps` belong.
template <class T>
void add_rows(const Conv2d& conv, const WgradPlan<T>& plan, const T* g, const T* x, int64_t rows, Range taps, T* sums) {
    constexpr int W = lanes<T>;
    const Grid grid = {rows, conv.Q, conv.stride_h * plan.x_columns * W, conv.stride_w * W};
    const int64_t first = taps.first * conv.S, count = (taps.last - taps.first) * conv.S;
    const int64_t groups = ceil_div(count, max_taps);
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t from = first + count * group / groups, to = first + count * (group + 1) / groups;
        int64_t offsets[max_taps];
        for (int64_t t = from; t < to; ++t)
            offsets[t - from] =
                ((t / conv.S - taps.first) * conv.dilation_h * plan.x_columns + t % conv.S * conv.dilation_w) * W;
        add_taps_for<T>(to - from)(grid, g, x, offsets, sums + from * plan.blocks.width, plan.blocks.width);
    }
}

// Adds one piece's part to one vector of a block's sums, `count` channels from first_k on.
template <class T>
void add_piece(const Conv2dProblem& problem, const WgradPlan<T>& plan, const WgradArgs& args,
               const WgradWorkspace<T>& space, int thread, int64_t piece, int64_t first_k, int64_t count, T* sums) {
    constexpr int W = lanes<T>;
    const Conv2d& conv = problem.conv;
    const auto mine = [&](T* array) { return of_thread(array, thread, space.per_thread); };
    T *const x = mine(space.x), *const g = mine(space.g);
    const int64_t n = piece / plan.pieces_per_image, first_p = piece % plan.pieces_per_image * plan.rows;
    const int64_t last_p = min(conv.P, first_p + plan.rows);
    gradient_rows(problem, args.dy, args.code, n, first_p, last_p - first_p, {first_k, count, 0, conv.Q, W}, g,
                  mine(space.pooled));
    Vec<T> total = {};
    for (int64_t i = 0; i < (last_p - first_p) * conv.Q; ++i) total += load(g + i * W);
    T* const bias = sums + (plan.sums - 1) * plan.blocks.width;
    store(bias, load(bias) + total);
    if (!args.dw.data) return;

    const int64_t first_h = max(0, first_p * conv.stride_h - conv.pad_h);
    const int64_t last_h = min(conv.H, (last_p - 1) * conv.stride_h - conv.pad_h + (conv.R - 1) * conv.dilation_h + 1);
    if (first_h >= last_h) return;
    pack_rows(channels_of(args.x, first_k, count), n, first_h, last_h - first_h, -conv.pad_w, plan.x_columns, W, x);
    const auto taps_of = [&](int64_t p) {
        return valid_positions(p * conv.stride_h - conv.pad_h, conv.dilation_h, conv.R, conv.H);
    };
    for (int64_t p = first_p, next; p < last_p; p = next) {
        const Range taps = taps_of(p);
        for (next = p + 1; next < last_p; ++next) {
            const Range others = taps_of(next);
            if (others.first != taps.first || others.last != taps.last) break;
        }
        const int64_t h = p * conv.stride_h - conv.pad_h + taps.first * conv.dilation_h;
        if (taps.first < taps.last)
            add_rows(conv, plan, g + (p - first_p) * conv.Q * W, x + (h - first_h) * plan.x_columns * W, next - p, taps,
                     sums);
    }
}

template <class T>
void run_typed(const Conv2dProblem& problem, const WgradArgs& args, void* workspace) {
    constexpr int W = lanes<T>;
    const Conv2d& conv = problem.conv;
    const WgradPlan<T> plan(problem);
    const WgradWorkspace<T> space(problem, plan, workspace);
    const int64_t width = plan.blocks.width, size = plan.sums * width;
    parallel_for(problem.threads, plan.chunks * plan.blocks.count, [&](int64_t item, int thread) {
        const int64_t chunk = item / plan.blocks.count, block = item % plan.blocks.count;
        T* const sums = space.sums + item * size;
        clear_row(size, sums);
        for (int64_t piece = plan.pieces * chunk / plan.chunks; piece < plan.pieces * (chunk + 1) / plan.chunks;
             ++piece)
            for (int64_t c = 0; c < plan.blocks.of(block); c += W)
                add_piece(problem, plan, args, space, thread, piece, block * width + c,
                          min(W, plan.blocks.of(block) - c), sums + c);
    });
    parallel_for(problem.threads, plan.blocks.count, [&](int64_t block, int) {
        T* const sums = space.sums + block * size;
        for (int64_t chunk = 1; chunk < plan.chunks; ++chunk) {
            const T* const more = sums + chunk * plan.blocks.count * size;
            for (int64_t i = 0; i < size; i += W) store(sums + i, load(sums + i) + load(more + i));
        }
        const int64_t first = block * width, count = plan.blocks.of(block);
        if (args.dw.data)
            unpack_filter(sums, conv.S * width, width, channels_of(as_one_filter(args.dw), first, count), 0);
        if (args.dbias.data)
            for (int64_t i = 0; i < count; ++i)
                set_value<T>(args.dbias, (first + i) * args.dbias.stride[0], sums[(plan.sums - 1) * width + i]);
    });
}

size_t workspace(const Conv2dProblem& problem) {
    return in_double(problem.dtype) ? WgradWorkspace<double>(problem, WgradPlan<double>(problem), nullptr).bytes
                                    : WgradWorkspace<float>(problem, WgradPlan<float>(problem), nullptr).bytes;
}

void run(const Conv2dProblem& problem, const WgradArgs& args, void* space) {
    (in_double(problem.dtype) ? run_typed<double> : run_typed<float>)(problem, args, space);
}

}  // namespace

extern const Implementation<WgradArgs> depthwise_wgrad;
const Implementation<WgradArgs> depthwise_wgrad = {"depthwise", is_depthwise, workspace, run};

}  // namespace fastconv::cpu::FASTCONV_ISA
