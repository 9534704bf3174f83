// Wgrad of depthwise convolutions and of grouped ones with few channels: the gradients of weight and bias, with vectors
// over output channels.
//
//   dw[r, s][d][k] = sum over n, p, q of g[n, p, q][k] * x[n, p * stride + r, q * stride + s][d][k]
//
// A depthwise convolution has d = 0 only. For others x is widened (depthwise.h).
//
// The rows of all images are cut into pieces, and pieces are dealt to chunks. A work item has a chunk and a block of
// channels. For each piece and each vector it keeps some kernel positions' sums in registers while it reads the piece,
// so every multiply-add reads one vector of x. NHWC tensors are read in place; pixels at the edges go one column at a
// time, since they see less of the kernel. Otherwise g is packed, and x with the left and right padding in place.
// Kernel rows that see only padding are skipped. The chunks' sums are then added up in order; like dw, they are small
// compared with x.
#include "depthwise.h"
#include "isa_kernels.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int max_taps = 10;  // 16 vector registers hold these beside g and x
constexpr int64_t least_items = 32;
constexpr int64_t least_pixels = 1024;  // per chunk of wide blocks; fewer pixels make too many chunks' sums to add up
constexpr int64_t in_place_bytes = 96 << 10;  // of a piece: L2 holds it and the next one

template <class T>
struct WgradPlan {
    Groups groups;
    ChannelBlocks<T> blocks;
    int64_t rows, pieces_per_image, pieces;  // rows: of g in a piece
    int64_t chunks;                          // each of some pieces
    int64_t pitch;                           // of packed x: elements from pixel to pixel
    int64_t x_rows, x_columns;               // packed, per piece
    int64_t sums;                            // vectors of sums per vector of channels: dw's and the bias's

    WgradPlan(const Conv2d& conv, bool in_place)
        : groups(conv),
          blocks(conv.K, depth(), conv.R * conv.S * depth(), in_place && conv.N * conv.P * conv.Q >= least_pixels) {
        pitch = packed_pitch<T>(depth() * blocks.width);
        x_columns = (conv.Q - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1;
        // As many rows as the cache holds; fewer if there would be too few items.
        for (pieces_per_image = 1;; ++pieces_per_image) {
            rows = ceil_div(conv.P, pieces_per_image);
            x_rows = min(conv.H, (rows - 1) * conv.stride_h + (conv.R - 1) * conv.dilation_h + 1);
            const int64_t elements = x_rows * x_columns * pitch + rows * conv.Q * blocks.width;
            if (rows == 1) break;
            if (elements * int64_t(sizeof(T)) <= (in_place ? in_place_bytes : depthwise_bytes) &&
                conv.N * pieces_per_image * blocks.count >= least_items)
                break;
        }
        pieces_per_image = ceil_div(conv.P, rows), pieces = conv.N * pieces_per_image;
        chunks = min(pieces, ceil_div(least_items, blocks.count));
        sums = conv.R * conv.S * depth() + 1;
    }
    int64_t depth() const { return groups.inputs; }
};

template <class T>
struct WgradWorkspace {
    T* sums;                     // [chunk][block][sum][width]
    T *narrow, *x, *g, *pooled;  // of thread 0; narrow: x before it is widened
    size_t per_thread, bytes;

    WgradWorkspace(const Conv2dProblem& problem, const WgradPlan<T>& plan, void* start) {
        Carver carver(start);
        sums = carver.take<T>(plan.chunks * plan.blocks.count * plan.sums * plan.blocks.width);
        const size_t shared = carver.used();
        const int64_t pixels = plan.x_rows * plan.x_columns;
        narrow = carver.take<T>(
            plan.groups.depthwise() ? 0 : pixels * most_inputs<T>(plan.groups, plan.blocks.width) + lanes<T>);
        x = carver.take<T>(pixels * plan.pitch);
        g = carver.take<T>(plan.rows * problem.conv.Q * plan.blocks.width);
        pooled = carver.take<T>(problem.pool.Q * plan.blocks.width);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
};

// Pixels of g and their pixels of x: elements from one to the next in a row, and from row to row.
struct Grid {
    int64_t rows, columns, g_row, g_pixel, x_row, x_pixel;
};

// A kernel position: its offset in x, from its pixels on, and in the sums.
struct Tap {
    int64_t x, sum;
};

// sums[tap] += g * x[tap] over all pixels of a grid, for TAPS taps.
template <class T, int TAPS>
void add_taps(const Grid& grid, const T* g, const T* x, const Tap* taps, T* sums) {
    Vec<T> acc[TAPS] = {};
    int64_t offset[TAPS];
    for (int t = 0; t < TAPS; ++t) offset[t] = taps[t].x;
    for (int64_t p = 0; p < grid.rows; ++p) {
        const T *g_at = g + p * grid.g_row, *x_at = x + p * grid.x_row;
        for (int64_t q = 0; q < grid.columns; ++q, g_at += grid.g_pixel, x_at += grid.x_pixel) {
            const Vec<T> value = load(g_at);
#pragma GCC unroll 10
            for (int t = 0; t < TAPS; ++t) acc[t] += value * load(x_at + offset[t]);
        }
    }
#pragma GCC unroll 10
    for (int t = 0; t < TAPS; ++t) store(sums + taps[t].sum, load(sums + taps[t].sum) + acc[t]);
}

template <class T>
using AddTaps = void (*)(const Grid&, const T*, const T*, const Tap*, T*);

// Calls add_taps<T, taps> for a number known at run time.
template <class T, int TAPS = 1>
AddTaps<T> add_taps_for(int64_t taps) {
    if constexpr (TAPS < max_taps)
        if (taps > TAPS) return add_taps_for<T, TAPS + 1>(taps);
    return add_taps<T, TAPS>;
}

// Prefetches the next rows of an NHWC tensor.
template <class T>
struct NextRows {
    const T* data = nullptr;
    int64_t rows = 0, columns = 0, row = 0, pixel = 0;

    NextRows() = default;
    // Up to `count` rows after row h of image n. `at` is (0, 0) of that image. Images follow one another.
    NextRows(const Conv2d& conv, const Tensor& t, const T* at, int64_t n, int64_t h, int64_t count)
        : data(at + (h + 1) * t.stride[2]), columns(t.size[3]), row(t.stride[2]), pixel(t.stride[3]) {
        const int64_t images = t.stride[0] == t.size[2] * row ? conv.N - n : 1;
        rows = max(0, min(count, images * t.size[2] - h - 1));
    }
    FASTCONV_PREFETCHES void fetch(int64_t channel) const {
        for (int64_t h = 0; h < rows; ++h)
            for (int64_t w = 0; w < columns; ++w) __builtin_prefetch(data + h * row + w * pixel + channel, 0, 2);
    }
};

// The input of add_grid: pixels of g and x that all see the kernel positions rows x columns x depth.
template <class T>
struct Part {
    Grid grid;
    const T *g, *x;           // of the first pixel; x: at kernel position (0, 0)
    int64_t x_row, x_column;  // from position to position
    Range rows, columns;
    int64_t depth;
};

template <class T>
void add_grid(const Part<T>& part, int64_t S, T* sums, int64_t width, const NextRows<T>& next_g,
              const NextRows<T>& next_x) {
    const int64_t positions = (part.rows.last - part.rows.first) * (part.columns.last - part.columns.first);
    const int64_t count = positions * part.depth;
    const int64_t groups = ceil_div(count, max_taps);
    int64_t r = part.rows.first, s = part.columns.first, d = 0;
    for (int64_t group = 0; group < groups; ++group) {
        const int64_t size = count * (group + 1) / groups - count * group / groups;
        Tap taps[max_taps];
        for (int64_t t = 0; t < size; ++t) {
            taps[t] = {r * part.x_row + s * part.x_column + d * width, ((r * S + s) * part.depth + d) * width};
            if (++d < part.depth) continue;
            d = 0;
            if (++s == part.columns.last) s = part.columns.first, ++r;
        }
        const auto add = add_taps_for<T>(size);
        for (int64_t c = 0; c < width; c += lanes<T>) {
            if (group == 0 && c % line_of<T> == 0) next_g.fetch(c), next_x.fetch(c);
            add(part.grid, part.g + c, part.x + c, taps, sums + c);
        }
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

// The columns of g that see no padding.
inline Range inner_columns(const Conv2d& conv) {
    return inner_pixels({0, 1, conv.Q, -conv.pad_w, conv.stride_w, conv.dilation_w, conv.S, 0, 1}, {0, conv.W});
}

// Whether t is NHWC, and its vectors need not be widened.
template <class T>
inline bool has_vectors(const Tensor& t) {
    return is_nhwc(t) && element_bytes(t.dtype) == sizeof(T);
}

// Whether x can be read in place: edges must be a small part of a row, and x must be read only once.
template <class T>
inline bool reads_in_place(const Conv2d& conv, const Tensor& x) {
    if (!Groups(conv).depthwise()) return false;
    const Range inner = inner_columns(conv);
    const int64_t positions = conv.R * conv.S;
    return has_vectors<T>(x) && positions <= max_taps && 2 * (inner.last - inner.first) >= conv.Q &&
           fit_in_cache(2 * positions, x.stride[3] * int64_t(sizeof(T)));
}

// Adds one piece to the sums of a block.
template <class T>
void add_piece(const Conv2dProblem& problem, const WgradPlan<T>& plan, const WgradArgs& args,
               const WgradWorkspace<T>& space, bool in_place, int thread, int64_t piece, int64_t block, T* sums) {
    const Conv2d& conv = problem.conv;
    const auto mine = [&](T* array) { return of_thread(array, thread, space.per_thread); };
    const int64_t width = plan.blocks.width, first_k = block * width, count = plan.blocks.of(block);
    const int64_t n = piece / plan.pieces_per_image, first_p = piece % plan.pieces_per_image * plan.rows;
    const int64_t last_p = min(conv.P, first_p + plan.rows);
    // g, x: the address of pixel (0, 0) of the image.
    Grid grid = {last_p - first_p, conv.Q, conv.Q * width, width, 0, 0};
    const bool g_in_place =
        problem.epilogue.activation == Activation::none && count == width && has_vectors<T>(args.dy);
    const T* g = mine(space.g) - first_p * grid.g_row;
    if (g_in_place) {
        g = static_cast<const T*>(args.dy.data) + n * args.dy.stride[0] + first_k;
        grid.g_row = args.dy.stride[2], grid.g_pixel = args.dy.stride[3];
    } else {
        gradient_rows(problem, args.dy, args.code, n, {first_p, last_p}, {first_k, count, 0, conv.Q, width},
                      mine(space.g), mine(space.pooled));
    }
    if (args.dbias.data) add_bias(grid, g + first_p * grid.g_row, sums + (plan.sums - 1) * width, width);
    if (!args.dw.data) return;

    const auto row_of_x = [&](int64_t p, int64_t r) { return p * conv.stride_h - conv.pad_h + r * conv.dilation_h; };
    const T* x;
    int64_t x_pixel = plan.pitch, x_row = plan.x_columns * x_pixel;
    Range inner = {0, conv.Q};  // of the columns of g: these see all kernel columns
    in_place = in_place && count == width;
    if (in_place) {
        x = static_cast<const T*>(args.x.data) + n * args.x.stride[0] + first_k;
        x_row = args.x.stride[2], x_pixel = args.x.stride[3];
        inner = inner_columns(conv);
    } else {
        const int64_t first_h = max(0, row_of_x(first_p, 0));
        const int64_t last_h = min(conv.H, row_of_x(last_p - 1, conv.R - 1) + 1);
        if (first_h >= last_h) return;
        const auto pack = [&](Range channels, int64_t pixel, T* to) {
            pack_rows(channels_of(args.x, channels.first, channels.last - channels.first), n, first_h, last_h - first_h,
                      -conv.pad_w, plan.x_columns, pixel, to);
        };
        if (plan.groups.depthwise()) {
            pack({first_k, first_k + count}, plan.pitch, mine(space.x));
        } else {
            const Range needed = plan.groups.inputs_of(first_k, count);
            const int64_t pixel = round_up(needed.last - needed.first, lanes<T>);
            pack(needed, pixel, mine(space.narrow));
            Widener<T>(plan.groups, first_k, count, width)(mine(space.narrow), (last_h - first_h) * plan.x_columns,
                                                           pixel, mine(space.x), plan.pitch);
        }
        x = mine(space.x) + conv.pad_w * x_pixel - first_h * x_row;
    }
    grid.x_row = conv.stride_h * x_row, grid.x_pixel = conv.stride_w * x_pixel;
    const auto taps_of = [&](int64_t p) { return valid_positions(row_of_x(p, 0), conv.dilation_h, conv.R, conv.H); };
    for (int64_t p = first_p, next; p < last_p; p = next) {
        const Range taps = taps_of(p);
        for (next = p + 1; next < last_p; ++next) {
            const Range others = taps_of(next);
            if (others.first != taps.first || others.last != taps.last) break;
        }
        if (taps.first >= taps.last) continue;
        grid.rows = next - p;
        NextRows<T> next_g, next_x;
        if (in_place) {
            next_x = {conv, args.x, x, n, row_of_x(next - 1, conv.R - 1), grid.rows * conv.stride_h};
            if (g_in_place) next_g = {conv, args.dy, g, n, next - 1, grid.rows};
        }
        for (int64_t q = 0, end; q < conv.Q; q = end) {
            const bool edge = q < inner.first || q >= inner.last;
            const int64_t w = q * conv.stride_w - conv.pad_w;
            end = edge ? q + 1 : inner.last;
            grid.columns = end - q;
            const Part<T> part = {grid,
                                  g + p * grid.g_row + q * grid.g_pixel,
                                  x + row_of_x(p, 0) * x_row + w * x_pixel,
                                  conv.dilation_h * x_row,
                                  conv.dilation_w * x_pixel,
                                  taps,
                                  edge ? valid_positions(w, conv.dilation_w, conv.S, conv.W) : Range{0, conv.S},
                                  plan.depth()};
            add_grid(part, conv.S, sums, width, edge ? NextRows<T>() : next_g, edge ? NextRows<T>() : next_x);
        }
    }
}

template <class T>
void run(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch) {
    constexpr int W = lanes<T>;
    const Conv2d& conv = problem.conv;
    const bool in_place = reads_in_place<T>(conv, args.x);
    const WgradPlan<T> plan(conv, in_place);
    const WgradWorkspace<T> space(problem, plan, launch.workspace);
    const int64_t width = plan.blocks.width, size = plan.sums * width;
    parallel_for(problem.threads, plan.chunks * plan.blocks.count, [&](int64_t item, int thread) {
        const int64_t chunk = item / plan.blocks.count, block = item % plan.blocks.count;
        T* const sums = space.sums + item * size;
        clear_row(size, sums);
        for (int64_t piece = plan.pieces * chunk / plan.chunks; piece < plan.pieces * (chunk + 1) / plan.chunks;
             ++piece)
            add_piece(problem, plan, args, space, in_place, thread, piece, block, sums);
    });
    parallel_for(problem.threads, plan.blocks.count, [&](int64_t block, int) {
        T* const sums = space.sums + block * size;
        for (int64_t chunk = 1; chunk < plan.chunks; ++chunk) {
            const T* const more = sums + chunk * plan.blocks.count * size;
            for (int64_t i = 0; i < size; i += W) store(sums + i, load(sums + i) + load(more + i));
        }
        const int64_t first = block * width, count = plan.blocks.of(block);
        const int64_t position = plan.depth() * width;
        for (int64_t d = 0; args.dw.data && d < plan.depth(); ++d)
            unpack_filter(sums + d * width, conv.S * position, position,
                          channels_of(as_one_filter(args.dw, d), first, count), 0);
        if (args.dbias.data)
            for (int64_t i = 0; i < count; ++i)
                set_value<T>(args.dbias, (first + i) * args.dbias.stride[0], sums[(plan.sums - 1) * width + i]);
    });
}

// Sized for packed input, too: whether x can be read in place depends on its strides.
template <class T>
size_t workspace(const Conv2dProblem& problem) {
    const auto bytes = [&](bool in_place) {
        return WgradWorkspace<T>(problem, WgradPlan<T>(problem.conv, in_place), nullptr).bytes;
    };
    return size_t(max(int64_t(bytes(false)), int64_t(bytes(true))));
}

}  // namespace

extern const Implementation<WgradArgs> depthwise_wgrad, grouped_wgrad;
const Implementation<WgradArgs> depthwise_wgrad = {"depthwise",  depthwise_condition,
                                                   is_depthwise, by_type<workspace<float>, workspace<double>>,
                                                   nullptr,      by_type<run<float>, run<double>>};
const Implementation<WgradArgs> grouped_wgrad = {
    "grouped",
    grouped_condition,
    by_type<has_few_channels<float, false>, has_few_channels<double, false>>,
    by_type<workspace<float>, workspace<double>>,
    nullptr,
    by_type<run<float>, run<double>>};

}  // namespace fastconv::cpu::FASTCONV_ISA
