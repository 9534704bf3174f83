// conv2d gradients of weight and bias, from the live gradients (live.h):
//
//   dw[k][r, s, c] = sum over live (p, q, g) of channel k: g * x[p * stride + r, q * stride + s, c]
//
// Images are taken a few at a time, as many as the outer cache holds, in two steps over all threads:
//   1. pack x as NHWC, with the padding in place;
//   2. a work item has some filters; for each tile (some rows of dy, or a part of one) it lists their live
//      gradients and where in x these point, and adds them up piece of a filter by piece, so that what a tile
//      points to in x stays in the first-level cache over all its filters.
// Every element of dw has one owner, which sees images and tiles in order: no partial sums to merge, and
// the same bits for any number of threads.
#include "isa_kernels.h"
#include "live.h"
#include "parallel.h"
#include "pool_window.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t images_bytes = 4 << 20;  // packed input of the images taken at a time
constexpr int64_t tile_bytes = 20 << 10;   // of x that a tile points to: what the first-level cache can hold
constexpr int64_t least_entries = 24;      // of a full list, so that adding to dw costs little
constexpr int64_t least_items = 8;

template <class T>
struct WgradPlan {
    int64_t height, width;  // of the packed input
    Slabs<T> slabs;
    int64_t front_slack, image_size;   // elements before an image's first one, and in all
    int64_t tile_rows, tile_columns;   // of dy, in a tile
    int64_t tiles_down, tiles_across;  // of an image
    int64_t capacity;                  // of a list
    int64_t images;                    // at a time
    int64_t filters_at_once, ranges;   // filters of an item
    int64_t filter_tiles, shares;      // what a filter is cut into, and the items these are spread over

    static int64_t packed_width(const Conv2d& conv) {
        return (conv.Q - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1;
    }

    explicit WgradPlan(const Conv2dProblem& problem)
        : height((problem.conv.P - 1) * problem.conv.stride_h + (problem.conv.R - 1) * problem.conv.dilation_h + 1),
          width(packed_width(problem.conv)),
          slabs(problem.conv, width) {
        const Conv2d& conv = problem.conv;
        const Pool2d& pool = problem.pool;
        // A code that no forward pass wrote may point beside its row, and the last vector of a slab reaches
        // beyond it: both have to stay inside of the buffer.
        front_slack = pool.pad_w * conv.stride_w * conv.C;
        const int64_t back_slack =
            (pool.window_w * pool.dilation_w + pool.stride_w) * conv.stride_w * conv.C + lanes<T>;
        image_size = round_up(front_slack + height * width * conv.C + back_slack, 16);
        const int64_t row_bytes = pool.window_h * width * conv.C * int64_t(sizeof(T));
        tiles_across = max(1, min(ceil_div(row_bytes, tile_bytes), pool.Q / least_entries));
        tile_columns = ceil_div(pool.Q, tiles_across), tiles_across = ceil_div(pool.Q, tile_columns);
        tile_rows = min(pool.P, ceil_div(least_entries, pool.Q));
        tiles_down = ceil_div(pool.P, tile_rows);
        capacity = tile_rows * tile_columns + list_slack;
        images = max(1, min(conv.N, images_bytes / (image_size * int64_t(sizeof(T)))));
        images = ceil_div(conv.N, ceil_div(conv.N, images));
        filters_at_once = max(8, ceil_div(conv.K, least_items));  // 8: as copies turn around at a time
        ranges = ceil_div(conv.K, filters_at_once);
        filter_tiles = slabs.outer * slabs.row_groups * slabs.pieces;
        shares = min(filter_tiles, ceil_div(least_items, ranges));
    }
};

template <class T>
struct WgradWorkspace {
    T *dw, *x;     // packed filters, packed images
    double* bias;  // [k]: sums of live gradients
    // Of thread 0, for the filters of an item:
    T* g;  // [k][capacity]: lists of entries
    int32_t* offset;
    int64_t* count;
    T* dy_row;  // one row of dy as [k][Q], its codes the same way
    uint8_t* code_row;
    size_t per_thread, bytes;

    WgradWorkspace(const Conv2dProblem& problem, const WgradPlan<T>& plan, void* start) {
        const int64_t K = plan.filters_at_once, Q = plan.tile_columns;
        Carver carver(start);
        dw = carver.take<T>(problem.conv.K * plan.slabs.filter_size);
        x = carver.take<T>(plan.images * plan.image_size);
        bias = carver.take<double>(problem.conv.K);
        const size_t shared = carver.used();
        g = carver.take<T>(K * plan.capacity);
        offset = carver.take<int32_t>(K * plan.capacity);
        count = carver.take<int64_t>(K);
        dy_row = carver.take<T>(K * Q);
        code_row = carver.take<uint8_t>(K * Q + lanes<T>);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
    // The same with the thread's own parts.
    WgradWorkspace of(int thread) const {
        WgradWorkspace mine = *this;
        mine.g = of_thread(g, thread, per_thread), mine.offset = of_thread(offset, thread, per_thread);
        mine.count = of_thread(count, thread, per_thread);
        mine.dy_row = of_thread(dy_row, thread, per_thread);
        mine.code_row = of_thread(code_row, thread, per_thread);
        return mine;
    }
};

// The codes of row p from column q on for filters first_k .. first_k + count, as [k][columns], in the terms of
// a pool: for ReLU alone, of windows of one position.
inline void stage_codes(const Conv2dProblem& problem, const uint8_t* code, int64_t n, int64_t p, int64_t first_q,
                        int64_t columns, int64_t first_k, int64_t count, uint8_t* out) {
    const int64_t K = problem.conv.K, Q = problem.pool.Q, P = problem.pool.P;
    if (problem.epilogue == Epilogue::relu_max_pool) {
        copy2d(columns, count, code + ((n * P + p) * Q + first_q) * K + first_k, K, 1, out, 1, columns);
    } else if (problem.epilogue == Epilogue::relu) {
        const uint8_t* row = code + (n * P + p) * ceil_div(Q, 8) * K + first_k;
        for (int64_t k = 0; k < count; ++k)
            for (int64_t i = 0, q = first_q; i < columns; ++i, ++q)
                out[k * columns + i] = row[q / 8 * K + k] >> (q % 8) & 1 ? 0 : uint8_t(dead);
    } else {
        std::memset(out, 0, size_t(count * columns));
    }
}

// Adds one row of a tile for one filter to its list. An offset is base + q * q_step + i * row_step + j * column_step,
// where (i, j) is the window position that the code names; positions in `rows` lie in the convolution's output.
struct ListRow {
    int64_t columns;
    int32_t base, q_step, row_step, column_step;
    int window_w;
    Range rows;
};

template <class T>
double list_row(const ListRow& row, const T* dy, const uint8_t* code, int32_t* offsets, T* values, int64_t& count) {
    // code / window_w for any byte, without a division: exact, since 255 * 254 < 65536.
    const int reciprocal = (65536 + row.window_w - 1) / row.window_w;
    double sum = 0;
    int64_t q = 0;
    if constexpr (sizeof(T) == 4) {
        constexpr int W = lanes<T>;
        Vec<T> sums = {};
        Mask<T> base;
        for (int i = 0; i < W; ++i) base[i] = row.base + i * row.q_step;
        for (; q + W <= row.columns; q += W, base += W * row.q_step) {
            const Mask<T> codes = load_bytes<T>(code + q);
            const Mask<T> i = (codes * reciprocal) >> 16, j = codes - i * row.window_w;
            const Vec<T> g = load(dy + q);
            const Mask<T> live = (i >= int(row.rows.first)) & (i < int(row.rows.last)) & (g != 0);
            sums += select(live, g, Vec<T>{});
            append(live, base + i * row.row_step + j * row.column_step, g, offsets, values, count);
        }
        for (int i = 0; i < W; ++i) sum += sums[i];
    }
    for (; q < row.columns; ++q) {
        const int i = (code[q] * reciprocal) >> 16, j = code[q] - i * row.window_w;
        const bool live = i >= row.rows.first && i < row.rows.last && dy[q] != 0;
        sum += select(live, dy[q], T(0));
        append(live, row.base + int32_t(q) * row.q_step + i * row.row_step + j * row.column_step, dy[q], offsets,
               values, count);
    }
    return sum;
}

// Lists the live gradients of one tile for `filters` filters from first_k on, and adds them to bias (may be null).
template <class T>
void list_tile(const Conv2dProblem& problem, const WgradPlan<T>& plan, const WgradArgs& args,
               const WgradWorkspace<T>& space, int64_t n, int64_t tile, int64_t first_k, int64_t filters,
               double* bias) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    std::memset(space.count, 0, size_t(filters) * sizeof(int64_t));
    const int64_t first_q = tile % plan.tiles_across * plan.tile_columns;
    const int64_t columns = min(plan.tile_columns, pool.Q - first_q);
    const int64_t first_p = tile / plan.tiles_across * plan.tile_rows;
    for (int64_t pp = first_p; pp < min(pool.P, first_p + plan.tile_rows); ++pp) {
        const T* dy = static_cast<const T*>(args.dy.data) + n * args.dy.stride[0] + first_k * args.dy.stride[1] +
                      pp * args.dy.stride[2] + first_q * args.dy.stride[3];
        int64_t dy_k = args.dy.stride[1];
        if (args.dy.stride[3] != 1) {
            copy2d(columns, filters, dy, args.dy.stride[3], args.dy.stride[1], space.dy_row, 1, columns);
            dy = space.dy_row, dy_k = columns;
        }
        stage_codes(problem, static_cast<const uint8_t*>(args.code.data), n, pp, first_q, columns, first_k, filters,
                    space.code_row);
        const int64_t p = pp * pool.stride_h - pool.pad_h, column = conv.stride_w * conv.C;
        const int64_t line = conv.stride_h * plan.width * conv.C;
        const ListRow row = {columns,
                             int32_t(p * line + (first_q * pool.stride_w - pool.pad_w) * column),
                             int32_t(pool.stride_w * column),
                             int32_t(pool.dilation_h * line),
                             int32_t(pool.dilation_w * column),
                             int(pool.window_w),
                             valid_positions(p, pool.dilation_h, pool.window_h, conv.P)};
        for (int64_t k = 0; k < filters; ++k) {
            const double sum = list_row(row, dy + k * dy_k, space.code_row + k * columns,
                                        space.offset + k * plan.capacity, space.g + k * plan.capacity, space.count[k]);
            if (bias) bias[k] += sum;
        }
    }
}

// Adds the lists of one tile to pieces first_part .. last_part of the filters.
template <class T>
void add_tile(const WgradPlan<T>& plan, const WgradWorkspace<T>& space, const T* x, int64_t first_k, int64_t filters,
              int64_t first_part, int64_t last_part) {
    const Slabs<T>& slabs = plan.slabs;
    constexpr int W = lanes<T>;
    for (int64_t part = first_part; part < last_part; ++part) {
        const int64_t piece = part % slabs.pieces, row = part / slabs.pieces % slabs.row_groups * slabs.rows_at_once;
        const int64_t outer = part / slabs.pieces / slabs.row_groups;
        const auto add = accumulate_for<T>(min(slabs.rows_at_once, slabs.rows - row), piece_vectors(slabs, piece));
        const int64_t from = outer * slabs.outer_step + row * slabs.row_step + piece * slabs.vectors_at_once * W;
        const int64_t to = ((outer * slabs.rows + row) * slabs.vectors + piece * slabs.vectors_at_once) * W;
        for (int64_t k = 0; k < filters; ++k)
            if (space.count[k])
                add(space.offset + k * plan.capacity, space.g + k * plan.capacity, space.count[k],
                    x + (first_k + k) / slabs.filters * slabs.channels + from, slabs.row_step,
                    space.dw + (first_k + k) * slabs.filter_size + to, slabs.vectors * W);
    }
}

// Packed row h of an image; the first and the last also clear what lies before and behind the rows.
template <class T>
void pack_row(const Conv2d& conv, const WgradPlan<T>& plan, const Tensor& x, int64_t n, int64_t h, T* image) {
    T* row = image + plan.front_slack + h * plan.width * conv.C;
    T* end = row + plan.width * conv.C;
    if (h == 0) std::memset(image, 0, size_t(plan.front_slack) * sizeof(T));
    if (h == plan.height - 1) std::memset(end, 0, size_t(image + plan.image_size - end) * sizeof(T));
    pack_rows(x, n, h - conv.pad_h, 1, -conv.pad_w, plan.width, row);
}

template <class T>
void run_typed(const Conv2dProblem& problem, const WgradArgs& args, void* workspace) {
    const Conv2d& conv = problem.conv;
    const WgradPlan<T> plan(problem);
    const WgradWorkspace<T> space(problem, plan, workspace);
    parallel_for(problem.threads, conv.K, [&](int64_t k, int) {
        std::memset(space.dw + k * plan.slabs.filter_size, 0, size_t(plan.slabs.filter_size) * sizeof(T));
    });
    for (int64_t k = 0; k < conv.K; ++k) space.bias[k] = 0;
    for (int64_t first = 0; first < conv.N; first += plan.images) {
        const int64_t images = min(plan.images, conv.N - first);
        if (args.dw.data)
            parallel_for(problem.threads, images * plan.height, [&](int64_t item, int) {
                const int64_t image = item / plan.height;
                pack_row(conv, plan, args.x, first + image, item % plan.height, space.x + image * plan.image_size);
            });
        // Without dw there are no pieces of it to share out, just lists.
        const int64_t shares = args.dw.data ? plan.shares : 1, parts = args.dw.data ? plan.filter_tiles : 0;
        parallel_for(problem.threads, plan.ranges * shares, [&](int64_t item, int thread) {
            const int64_t share = item % shares, first_k = item / shares * plan.filters_at_once;
            const int64_t filters = min(plan.filters_at_once, conv.K - first_k);
            const WgradWorkspace<T> mine = space.of(thread);
            double* bias = share ? nullptr : space.bias + first_k;  // one share adds it up
            for (int64_t image = 0; image < images; ++image) {
                for (int64_t tile = 0; tile < plan.tiles_down * plan.tiles_across; ++tile) {
                    list_tile(problem, plan, args, mine, first + image, tile, first_k, filters, bias);
                    add_tile(plan, mine, space.x + image * plan.image_size + plan.front_slack, first_k, filters,
                             parts * share / shares, parts * (share + 1) / shares);
                }
            }
        });
    }
    if (args.dbias.data)
        for (int64_t k = 0; k < conv.K; ++k)
            static_cast<T*>(args.dbias.data)[k * args.dbias.stride[0]] = T(space.bias[k]);
    if (!args.dw.data) return;
    parallel_for(problem.threads, conv.K, [&](int64_t k, int) {
        unpack_filter(space.dw + k * plan.slabs.filter_size, plan.slabs.r_step, plan.slabs.s_step, args.dw, k);
    });
}

// Offsets are 32-bit, and one packed image has to be of a sane size.
bool applies(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    if (conv.N == 0 || conv.C == 0 || conv.K == 0 || pool.P == 0 || pool.Q == 0) return false;
    if (conv.groups > 1 && conv.C / conv.groups < 4) return false;  // depthwise: vectors would stay empty
    constexpr double limit = 1 << 28;
    const double column = double(conv.stride_w) * double(conv.C);
    const double width = double(conv.Q) * column + double(conv.S) * double(conv.dilation_w) * double(conv.C);
    const double height = double(conv.P) * double(conv.stride_h) + double(conv.R) * double(conv.dilation_h);
    const double beside = (double(pool.window_w) * double(pool.dilation_w) + double(pool.stride_w)) * column;
    const double below = double(pool.window_h) * double(pool.dilation_h) * double(conv.stride_h) * width;
    return height * width + beside + below < limit &&
           double(conv.K) * double(conv.C) * double(conv.R) * double(conv.S) < limit;
}

size_t workspace(const Conv2dProblem& problem) {
    return problem.dtype == DType::float32 ? WgradWorkspace<float>(problem, WgradPlan<float>(problem), nullptr).bytes
                                           : WgradWorkspace<double>(problem, WgradPlan<double>(problem), nullptr).bytes;
}

void run(const Conv2dProblem& problem, const WgradArgs& args, void* space) {
    (problem.dtype == DType::float32 ? run_typed<float> : run_typed<double>)(problem, args, space);
}

}  // namespace

extern const Implementation<WgradArgs> live_wgrad;
const Implementation<WgradArgs> live_wgrad = {"live", applies, workspace, run};

}  // namespace fastconv::cpu::FASTCONV_ISA
