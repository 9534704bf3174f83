// Depthwise conv2d gradients of weight and bias, vectors over channels:
//
//   dw[r, s][c] = sum over n, p, q of g[n, p, q][c] * x[n, p * stride + r, q * stride + s][c]
//
// All rows of all images are cut into pieces, which are shared out to chunks. A work item has a chunk and a block of
// channels: piece by piece it packs x, with the padding on the left and right in place, and g, unless this is dy as it
// is, and for each vector keeps some of the kernel's positions in registers while it goes over the piece, so that every
// multiply-add reads one vector of x. Kernel rows that see only padding are left out. Then the chunks' sums are added
// up in order: dw is small beside x and so are these.
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

    explicit WgradPlan(const Conv2dProblem& problem) : blocks(problem.conv) {
        const Conv2d& conv = problem.conv;
        x_columns = (conv.Q - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1;
        // As many rows as the cache holds; fewer where else there were too few items.
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
        x = carver.take<T>(plan.x_rows * plan.x_columns * plan.blocks.width);
        g = carver.take<T>(plan.rows * problem.conv.Q * plan.blocks.width);
        pooled = carver.take<T>(problem.pool.Q * plan.blocks.width);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
};

// Pixels of g, and those of x that belong to them: elements from one to the next, in a row and from row to row.
struct Grid {
    int64_t rows, columns, g_row, g_pixel, x_row, x_pixel;
};

// sums[tap] += g * x[offset of the tap], over all pixels of a grid, for TAPS taps.
template <class T, int TAPS>
void add_taps(const Grid& grid, const T* g, const T* x, const int64_t* offsets, T* sums, int64_t sum_step) {
    Vec<T> acc[TAPS] = {};
    int64_t offset[TAPS];
    for (int t = 0; t < TAPS; ++t) offset[t] = offsets[t];
    for (int64_t p = 0; p < grid.rows; ++p) {
        const T *g_at = g + p * grid.g_row, *x_at = x + p * grid.x_row;
        for (int64_t q = 0; q < grid.columns; ++q, g_at += grid.g_pixel, x_at += grid.x_pixel) {
            const Vec<T> value = load(g_at);
#pragma GCC unroll 10
            for (int t = 0; t < TAPS; ++t) acc[t] += value * load(x_at + offset[t]);
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

// Adds up a grid whose rows all see the kernel rows `taps`, the first of these at x.
template <class T>
void add_rows(const Conv2d& conv, const WgradPlan<T>& plan, const Grid& grid, const T* g, const T* x, Range taps,
              T* sums) {
    const int64_t width = plan.blocks.width, first = taps.first * conv.S, count = (taps.last - taps.first) * conv.S;
    const int64_t groups = ceil_div(count, max_taps);
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t from = first + count * group / groups, to = first + count * (group + 1) / groups;
        int64_t offsets[max_taps];
        for (int64_t t = from; t < to; ++t)
            offsets[t - from] =
                ((t / conv.S - taps.first) * conv.dilation_h * plan.x_columns + t % conv.S * conv.dilation_w) * width;
        const auto add = add_taps_for<T>(to - from);
        for (int64_t c = 0; c < width; c += lanes<T>) add(grid, g + c, x + c, offsets, sums + from * width + c, width);
    }
}

// sums += g
template <class T>
void add_bias(const Grid& grid, const T* g, T* sums, int64_t width) {
    for (int64_t c = 0; c < width; c += lanes<T>) {
        Vec<T> sum = {};
        for (int64_t p = 0; p < grid.rows; ++p)
            for (int64_t q = 0; q < grid.columns; ++q) sum += load(g + p * grid.g_row + q * grid.g_pixel + c);
        store(sums + c, load(sums + c) + sum);
    }
}

// Adds one piece's part to the sums of a block.
template <class T>
void add_piece(const Conv2dProblem& problem, const WgradPlan<T>& plan, const WgradArgs& args,
               const WgradWorkspace<T>& space, int thread, int64_t piece, int64_t block, T* sums) {
    const Conv2d& conv = problem.conv;
    const auto mine = [&](T* array) { return of_thread(array, thread, space.per_thread); };
    const int64_t width = plan.blocks.width, first_k = block * width, count = plan.blocks.of(block);
    const int64_t n = piece / plan.pieces_per_image, first_p = piece % plan.pieces_per_image * plan.rows;
    const int64_t last_p = min(conv.P, first_p + plan.rows);
    Grid grid = {last_p - first_p,     conv.Q, conv.Q * width, width, conv.stride_h * plan.x_columns * width,
                 conv.stride_w * width};
    const T* g = mine(space.g);
    if (problem.epilogue == Epilogue::none && count == width && is_nhwc<T>(args.dy)) {
        g = static_cast<const T*>(args.dy.data) + n * args.dy.stride[0] + first_p * args.dy.stride[2] + first_k;
        grid.g_row = args.dy.stride[2], grid.g_pixel = args.dy.stride[3];
    } else {
        gradient_rows(problem, args.dy, args.code, n, {first_p, last_p}, {first_k, count, 0, conv.Q, width},
                      mine(space.g), mine(space.pooled));
    }
    if (args.dbias.data) add_bias(grid, g, sums + (plan.sums - 1) * width, width);
    if (!args.dw.data) return;

    const auto row_of_x = [&](int64_t p, int64_t r) { return p * conv.stride_h - conv.pad_h + r * conv.dilation_h; };
    const int64_t first_h = max(0, row_of_x(first_p, 0)), last_h = min(conv.H, row_of_x(last_p - 1, conv.R - 1) + 1);
    if (first_h >= last_h) return;
    T* const x = mine(space.x);
    pack_rows(channels_of(args.x, first_k, count), n, first_h, last_h - first_h, -conv.pad_w, plan.x_columns, width, x);
    const auto taps_of = [&](int64_t p) { return valid_positions(row_of_x(p, 0), conv.dilation_h, conv.R, conv.H); };
    for (int64_t p = first_p, next; p < last_p; p = next) {
        const Range taps = taps_of(p);
        for (next = p + 1; next < last_p; ++next) {
            const Range others = taps_of(next);
            if (others.first != taps.first || others.last != taps.last) break;
        }
        if (taps.first >= taps.last) continue;
        grid.rows = next - p;
        add_rows(conv, plan, grid, g + (p - first_p) * grid.g_row,
                 x + (row_of_x(p, taps.first) - first_h) * plan.x_columns * width, taps, sums);
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
            add_piece(problem, plan, args, space, thread, piece, block, sums);
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
