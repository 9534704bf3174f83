// fprop and dgrad on matrix tiles (tiles.h), with bias and epilogue: bfloat16, and float32 as products of two parts.
//
// A work item is a few rows of one image's output. It packs the input that they need, with the padding in place, as one
// plane per phase of the stride: [row][column][channel]. In a plane, neighbors of the output are at one distance, also
// across the end of a row. So 16 outputs in a row are the rows of a tile wherever they begin; the columns between two
// rows of the output are computed, too, and thrown away. A kernel position only moves the tile's start.
//
// The reduction is cut into parts of one even length, at most 32 elements, the width of a tile. Few channels are packed
// as whole rows of the kernel, so that parts are long. Channels that fill up a part are zeros in x and in the weights:
// memory that nobody wrote may hold NaN.
//
// float32 operands are hi + lo in bfloat16, and a product is lo * hi + hi * lo + hi * hi. Short sums add lo * lo, whose
// error would not average out. A product errs by at most 3e-5 of itself, so sums that cancel have larger errors.
#include "conv2d_direct_dgrad.h"
#include "conv2d_epilogue.h"
#include "isa_kernels.h"
#include "parallel.h"
#include "tiles.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t block_filters = 2 * tile_columns;
constexpr int64_t item_bytes = 512 << 10;      // of packed input and sums: stays in L2
constexpr int64_t least_items = 16;            // enough for a few threads to share evenly
constexpr int64_t few_channels = 16;           // of a group: fewer are packed as rows of the kernel
constexpr int64_t least_channels_filters = 8;  // of a group, at least
constexpr int64_t short_sum = 64;              // elements: float32 needs all four products

// How numbers become bfloat16: as they are, or as two parts.
template <class E>
constexpr int parts_of_number = sizeof(E) == 4 ? 2 : 1;

struct Halves {
    Vec<uint32_t> hi, lo;  // bfloat16, each in the low half of a lane
};

// hi + lo is v up to 2^-16 of it. A finite v has a finite hi. lo is 0 beside inf.
inline Halves split(Vec<float> v) {
    const auto bits = same_bits<Vec<uint32_t>>(v), magnitude = bits & 0x7fffffffu;
    Vec<uint32_t> hi = round_to_bfloat16<Vec<float>, Vec<uint32_t>>(v) & 0xffffu;
    hi = magnitude >= 0x7f7f8000u && magnitude < 0x7f800000u ? (bits >> 16 & 0x8000u) | 0x7f7fu : hi;
    const Vec<uint32_t> lo =
        round_to_bfloat16<Vec<float>, Vec<uint32_t>>(v - same_bits<Vec<float>>(hi << 16)) & 0xffffu;
    return {hi, magnitude == 0x7f800000u ? Vec<uint32_t>{} : lo};
}

// Copies numbers to their packed parts. lo: of float32 alone.
inline void pack_numbers(const bfloat16* from, int64_t count, bfloat16* hi, bfloat16*) { copy_row(count, from, hi); }
inline void pack_numbers(const float* from, int64_t count, bfloat16* hi, bfloat16* lo) {
    constexpr int W = lanes<float>;
    int64_t i = 0;
    for (; i + W <= count; i += W) {
        const Halves halves = split(load(from + i));
        store_words(hi + i, halves.hi), store_words(lo + i, halves.lo);
    }
    if (i == count) return;
    float rest[W] = {};
    bfloat16 parts[2][W];
    for (int64_t j = i; j < count; ++j) rest[j - i] = from[j];
    const Halves halves = split(load(rest));
    store_words(parts[0], halves.hi), store_words(parts[1], halves.lo);
    for (int64_t j = i; j < count; ++j) hi[j] = parts[0][j - i], lo[j] = parts[1][j - i];
}

template <class E>
struct Plan {
    int64_t channels, filters;  // per group
    int64_t blocks_per_group, blocks;
    bool whole_rows;                              // a packed pixel is a row of the kernel
    int64_t columns;                              // kernel positions of a row that are apart: S, or 1
    int64_t stretch, pieces, length;              // elements of a kernel position, its parts, elements of a part
    int64_t parts, pixel;                         // of the reduction; elements of a packed pixel
    int64_t phases_h, phases_w, width;            // planes per group, columns of a plane
    int64_t rows, chunks, conv_rows, plane_rows;  // rows: (pooled) output rows per item; chunks: per image
    int64_t block_shares;                         // items of a chunk, each with some of the blocks

    explicit Plan(const Conv2dProblem& problem) {
        const Conv2d& conv = problem.conv;
        const Pool2d& pool = problem.pool;
        channels = conv.C / conv.groups, filters = conv.K / conv.groups;
        blocks_per_group = ceil_div(filters, block_filters), blocks = blocks_per_group * conv.groups;
        whole_rows = channels < few_channels;
        columns = whole_rows ? 1 : conv.S;
        stretch = whole_rows ? conv.S * channels : channels;
        pieces = ceil_div(stretch, tile_elements);
        length = round_up(ceil_div(stretch, pieces), 2);
        parts = conv.R * columns * pieces, pixel = pieces * length;
        phases_h = phases_of(conv.R, conv.stride_h, conv.dilation_h);
        phases_w = phases_of(columns, conv.stride_w, conv.dilation_w);
        width = conv.Q + (columns - 1) * conv.dilation_w / conv.stride_w;
        for (chunks = 1;; ++chunks) {
            rows = ceil_div(pool.P, chunks);
            conv_rows = min(conv.P, (rows - 1) * pool.stride_h + (pool.window_h - 1) * pool.dilation_h + 1);
            plane_rows = conv_rows + (conv.R - 1) * conv.dilation_h / conv.stride_h;
            if (rows == 1) break;
            if (bytes() <= item_bytes && conv.N * chunks * blocks >= least_items) break;
        }
        chunks = ceil_div(pool.P, rows);
        block_shares = min(blocks, ceil_div(least_items, max(1, conv.N * chunks)));
    }

    int64_t plane_size() const { return plane_rows * width * pixel; }
    int64_t group_size() const { return phases_h * phases_w * plane_size(); }
    int64_t input_size(const Conv2d& conv) const { return conv.groups * group_size(); }
    int64_t bytes() const {
        return parts_of_number<E> * group_size() * 2 + conv_rows * width * block_filters * int64_t(sizeof(float));
    }
    int64_t block_size() const { return parts * length * block_filters; }  // elements of packed weights
    int64_t line_width(const Conv2d& conv) const {
        return (conv.Q - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1;
    }
    int64_t first_filter(int64_t block) const { return block % blocks_per_group * block_filters; }
    int64_t filters_of(int64_t block) const { return min(block_filters, filters - first_filter(block)); }
    int vectors(int64_t block) const { return filters_of(block) > tile_columns ? 2 : 1; }
};

// Memory that threads share, and memory of each thread.
template <class E>
struct Workspace {
    bfloat16 *weights, *weights_lo;  // [block][part][tile of filters][term][tile_columns]
    float* bias;                     // [block][block_filters]
    int64_t* offsets;                // of each part, in a group's planes
    bfloat16 *shared, *shared_lo;    // packed input of all chunks, if items share it
    // Of thread 0:
    float* filters;  // [element][block_filters]
    E* line;         // a row before it is packed
    bfloat16 *input, *input_lo;
    float *sums, *row;  // [row][width][vectors * tile_columns], a pooled row
    size_t per_thread, bytes;

    Workspace(const Conv2dProblem& problem, const Plan<E>& plan, void* start) {
        const Conv2d& conv = problem.conv;
        const bool two = parts_of_number<E> == 2, share = plan.block_shares > 1;
        Carver carver(start);
        weights = carver.take<bfloat16>(plan.blocks * plan.block_size());
        weights_lo = carver.take<bfloat16>(two ? plan.blocks * plan.block_size() : 0);
        bias = carver.take<float>(plan.blocks * block_filters);
        offsets = carver.take<int64_t>(plan.parts);
        const int64_t all = share ? conv.N * plan.chunks * plan.input_size(conv) : 0;
        shared = carver.take<bfloat16>(all), shared_lo = carver.take<bfloat16>(two ? all : 0);
        const size_t of_all = carver.used();
        filters = carver.take<float>(plan.channels * conv.R * conv.S * block_filters);
        line = carver.take<E>(max(plan.line_width(conv), plan.width) * plan.channels);
        const int64_t own = share ? 0 : plan.input_size(conv);
        input = carver.take<bfloat16>(own), input_lo = carver.take<bfloat16>(two ? own : 0);
        sums = carver.take<float>(plan.conv_rows * plan.width * block_filters);
        row = carver.take<float>(problem.pool.Q * block_filters);
        per_thread = carver.used() - of_all;
        bytes = of_all + per_thread * size_t(problem.threads);
    }
    template <class U>
    U* of(int thread, U* of_thread_0) const {
        return of_thread(of_thread_0, thread, per_thread);
    }
};

template <class E>
void list_offsets(const Conv2d& conv, const Plan<E>& plan, int64_t* offset) {
    for (int64_t r = 0; r < conv.R; ++r)
        for (int64_t s = 0; s < plan.columns; ++s) {
            const int64_t start = place_in_planes(conv, plan, r, s) * plan.pixel;
            for (int64_t piece = 0; piece < plan.pieces; ++piece) *offset++ = start + piece * plan.length;
        }
}

// Packs the filters of one block.
template <class E>
void pack_weights(const Conv2d& conv, const Plan<E>& plan, const FpropArgs& args, const Workspace<E>& space,
                  int64_t block, int thread) {
    const int64_t first_k = block / plan.blocks_per_group * plan.filters + plan.first_filter(block);
    const int64_t count = plan.filters_of(block), width = plan.vectors(block) * tile_columns;
    float* const bias = space.bias + block * block_filters;
    for (int64_t i = 0; i < width; ++i)
        bias[i] = args.bias.data && i < count ? value_at<float>(args.bias, (first_k + i) * args.bias.stride[0]) : 0;
    float* const rows = space.of(thread, space.filters);
    if (count < width) clear_row(plan.channels * conv.R * conv.S * width, rows);
    pack_filter_rows(args.w, first_k, count, width, rows);
    int64_t at = block * plan.block_size();
    const float zeros[tile_columns] = {};
    for (int64_t i = 0; i < conv.R * plan.columns; ++i)
        for (int64_t piece = 0; piece < plan.pieces; ++piece)
            for (int64_t v = 0; v < width; v += tile_columns)
                for (int64_t e = piece * plan.length; e < (piece + 1) * plan.length; e += 2, at += 2 * tile_columns) {
                    const float* row = rows + (i * plan.stretch + e) * width + v;
                    const Halves a = split(load(e < plan.stretch ? row : zeros));
                    const Halves b = split(load(e + 1 < plan.stretch ? row + width : zeros));
                    const auto put = [&](bfloat16* to, Vec<uint32_t> pairs) {
                        *reinterpret_cast<VecOf<uint32_t>::unaligned*>(to) = pairs;
                    };
                    put(space.weights + at, a.hi | b.hi << 16);
                    if (parts_of_number<E> == 2) put(space.weights_lo + at, a.lo | b.lo << 16);
                }
}

// Packs the input of a chunk.
template <class E>
void pack_input(const Conv2d& conv, const Plan<E>& plan, const Tensor& x, const ChunkRows& chunk, E* line,
                bfloat16* input, bfloat16* input_lo) {
    const int64_t conv_rows = chunk.needed.last - chunk.needed.first;
    if (conv_rows <= 0) return;
    const int64_t rows = conv_rows + (conv.R - 1) * conv.dilation_h / conv.stride_h;
    for (int64_t group = 0; group < conv.groups; ++group) {
        const Tensor own = channels_of(x, group * plan.channels, plan.channels);
        for (int64_t plane = 0; plane < plan.phases_h * plan.phases_w; ++plane) {
            const int64_t h0 = chunk.needed.first * conv.stride_h - conv.pad_h +
                               plane / plan.phases_w * conv.dilation_h % conv.stride_h;
            const int64_t w0 = plane % plan.phases_w * conv.dilation_w % conv.stride_w - conv.pad_w;
            for (int64_t row = 0; row < rows; ++row) {
                const int64_t h = h0 + row * conv.stride_h;
                const int64_t at =
                    group * plan.group_size() + (plane * plan.plane_rows + row) * plan.width * plan.pixel;
                bfloat16 *hi = input + at, *lo = input_lo + at;
                if (h < 0 || h >= conv.H) {
                    clear_row(plan.width * plan.pixel, hi);
                    if (parts_of_number<E> == 2) clear_row(plan.width * plan.pixel, lo);
                } else if (plan.whole_rows) {
                    pack_kernel_rows(conv, plan, own, chunk.n, h, line, hi, lo);
                } else {
                    pack_pixels(conv, plan, own, chunk.n, h, w0, line, hi, lo);
                }
            }
        }
    }
}

// Fills up a packed pixel with zeros.
template <class E>
void fill_up(int64_t count, int64_t pixel, bfloat16* hi, bfloat16* lo) {
    if (count == pixel) return;
    clear_row(pixel - count, hi + count);
    if (parts_of_number<E> == 2) clear_row(pixel - count, lo + count);
}

// Packs a row of x, for each column of the output what its row of the kernel reads.
template <class E>
void pack_kernel_rows(const Conv2d& conv, const Plan<E>& plan, const Tensor& x, int64_t n, int64_t h, E* line,
                      bfloat16* hi, bfloat16* lo) {
    pack_rows(x, n, h, 1, -conv.pad_w, plan.line_width(conv), plan.channels, line);
    const bool together = conv.dilation_w == 1;
    const int64_t count = together ? plan.stretch : plan.channels;
    for (int64_t q = 0; q < conv.Q; ++q, hi += plan.pixel, lo += plan.pixel) {
        for (int64_t s = 0; s < (together ? 1 : conv.S); ++s)
            pack_numbers(line + (q * conv.stride_w + s * conv.dilation_w) * plan.channels, count, hi + s * count,
                         lo + s * count);
        fill_up<E>(plan.stretch, plan.pixel, hi, lo);
    }
}

// Packs columns w0, w0 + stride_w, ... of a row of x.
template <class E>
void pack_pixels(const Conv2d& conv, const Plan<E>& plan, const Tensor& x, int64_t n, int64_t h, int64_t w0, E* line,
                 bfloat16* hi, bfloat16* lo) {
    const int64_t first = min(plan.width, ceil_div(max(0, -w0), conv.stride_w));
    const int64_t last = max(first, min(plan.width, ceil_div(conv.W - w0, conv.stride_w)));
    const int64_t count = last - first;
    const auto clear = [&](int64_t from, int64_t to) {
        clear_row((to - from) * plan.pixel, hi + from * plan.pixel);
        if (parts_of_number<E> == 2) clear_row((to - from) * plan.pixel, lo + from * plan.pixel);
    };
    clear(0, first), clear(last, plan.width);
    if (count <= 0) return;
    const E* data =
        static_cast<const E*>(x.data) + n * x.stride[0] + h * x.stride[2] + (w0 + first * conv.stride_w) * x.stride[3];
    hi += first * plan.pixel, lo += first * plan.pixel;
    if constexpr (parts_of_number<E> == 1) {
        copy2d(count, plan.channels, data, conv.stride_w * x.stride[3], x.stride[1], hi, plan.pixel, 1);
    } else {
        const bool in_place = x.stride[1] == 1;
        if (!in_place)
            copy2d(count, plan.channels, data, conv.stride_w * x.stride[3], x.stride[1], line, plan.channels, 1);
        for (int64_t i = 0; i < count; ++i)
            pack_numbers(in_place ? data + i * conv.stride_w * x.stride[3] : line + i * plan.channels, plan.channels,
                         hi + i * plan.pixel, lo + i * plan.pixel);
    }
    if (plan.channels < plan.pixel)
        for (int64_t i = 0; i < count; ++i)
            fill_up<E>(plan.channels, plan.pixel, hi + i * plan.pixel, lo + i * plan.pixel);
}

// What a product of tiles reads: x from a chunk's first output on, weights of one block.
struct Operands {
    const bfloat16 *x, *x_lo, *w, *w_lo;
    const float* bias;
    const int64_t* offsets;
    int64_t parts, length, pixel;
};

// Computes M x N tiles of sums: outputs from at[0] and at[1] on, N tiles of filters. PRODUCTS: of the parts of numbers.
template <int PRODUCTS, int M, int N>
void multiply(Tiles& tiles, const Operands& from, const int64_t* at, float* sums) {
    constexpr int64_t row_bytes = N * tile_columns * int64_t(sizeof(float));
    const int64_t tile_size = from.length * tile_columns, pixel_bytes = 2 * from.pixel;
    // All rows of these tiles are the bias.
    each_sum<M, N>([&](auto tile, int, int j) { tiles.load<tile.number>(from.bias + j * tile_columns, 0); });
    const auto load_x = [&](const bfloat16* x) {
        tiles.load<x_tile(0)>(x + at[0] * from.pixel, pixel_bytes);
        if constexpr (M > 1) tiles.load<x_tile(1)>(x + at[1] * from.pixel, pixel_bytes);
    };
    const auto load_w = [&](const bfloat16* w) {
        tiles.load<w_tile(0)>(w, 4 * tile_columns);
        if constexpr (N > 1) tiles.load<w_tile(1)>(w + tile_size, 4 * tile_columns);
    };
    const auto add = [&] { add_products<M, N>(tiles); };
    for (int64_t part = 0; part < from.parts; ++part) {
        const int64_t offset = from.offsets[part], weight = part * N * tile_size;
        if constexpr (PRODUCTS == 4) load_x(from.x_lo + offset), load_w(from.w_lo + weight), add();
        if constexpr (PRODUCTS > 1) {
            load_x(from.x + offset);
            load_w(from.w_lo + weight), add();
            load_w(from.w + weight), add();
            load_x(from.x_lo + offset), add();
        } else {
            load_x(from.x + offset), load_w(from.w + weight), add();
        }
    }
    each_sum<M, N>([&](auto tile, int i, int j) {
        tiles.store<tile.number>(sums + at[i] * N * tile_columns + j * tile_columns, row_bytes);
    });
}

// Computes `count` neighboring outputs for one block. The last tile overlaps the one before it, to stay inside.
template <int PRODUCTS, int N>
void compute_block(const Operands& from, int64_t count, float* sums) {
    const int64_t rows = min(count, tile_rows);
    Tiles tiles(rows, from.length);
    for (int64_t first = 0; first < count; first += 2 * rows) {
        const int64_t at[] = {min(first, count - rows), min(first + rows, count - rows)};
        (at[1] > at[0] ? multiply<PRODUCTS, 2, N> : multiply<PRODUCTS, 1, N>)(tiles, from, at, sums);
    }
}

// float32 has four products where sums are short, else three.
template <class E>
auto compute_block_for(const Conv2d& conv, const Plan<E>& plan, int64_t block) {
    const bool two = plan.vectors(block) == 2;
    if constexpr (parts_of_number<E> == 1) return two ? compute_block<1, 2> : compute_block<1, 1>;
    else if (plan.channels * conv.R * conv.S < short_sum || plan.channels <= 4)
        return two ? compute_block<4, 2> : compute_block<4, 1>;
    else return two ? compute_block<3, 2> : compute_block<3, 1>;
}

template <class E>
void compute_item(const Conv2dProblem& problem, const Plan<E>& plan, const FpropArgs& args, const Workspace<E>& space,
                  int64_t item, int thread) {
    const Conv2d& conv = problem.conv;
    const int64_t share = item % plan.block_shares, number = item / plan.block_shares;
    const ChunkRows chunk(problem, plan, number);
    bfloat16* input = space.shared + number * plan.input_size(conv);
    bfloat16* input_lo = space.shared_lo + number * plan.input_size(conv);
    if (plan.block_shares == 1) {
        input = space.of(thread, space.input), input_lo = space.of(thread, space.input_lo);
        pack_input(conv, plan, args.x, chunk, space.of(thread, space.line), input, input_lo);
    }
    float* const sums = space.of(thread, space.sums);
    const int64_t rows = chunk.needed.last - chunk.needed.first;
    for (int64_t block = plan.blocks * share / plan.block_shares; block < plan.blocks * (share + 1) / plan.block_shares;
         ++block) {
        const int64_t group = block / plan.blocks_per_group, weights = block * plan.block_size();
        const int64_t first_k = group * plan.filters + plan.first_filter(block);
        const Operands from = {input + group * plan.group_size(),
                               input_lo + group * plan.group_size(),
                               space.weights + weights,
                               space.weights_lo + weights,
                               space.bias + block * block_filters,
                               space.offsets,
                               plan.parts,
                               plan.length,
                               plan.pixel};
        if (rows > 0) compute_block_for(conv, plan, block)(from, (rows - 1) * plan.width + conv.Q, sums);
        run_epilogue(problem, args, chunk.n, chunk.first, chunk.last, sums, plan.width, chunk.needed.first,
                     plan.vectors(block), first_k, plan.filters_of(block), space.of(thread, space.row));
    }
}

template <class E>
void run(const Conv2dProblem& problem, const FpropArgs& args, const Launch& launch) {
    const Plan<E> plan(problem);
    const Workspace<E> space(problem, plan, launch.workspace);
    const Conv2d& conv = problem.conv;
    list_offsets(conv, plan, space.offsets);
    const int64_t packed = plan.block_shares > 1 ? conv.N * plan.chunks : 0;
    parallel_for(problem.threads, packed + plan.blocks, [&](int64_t item, int thread) {
        if (item >= packed) return pack_weights(conv, plan, args, space, item - packed, thread);
        const int64_t at = item * plan.input_size(conv);
        pack_input(conv, plan, args.x, ChunkRows(problem, plan, item), space.of(thread, space.line), space.shared + at,
                   space.shared_lo + at);
    });
    parallel_for(problem.threads, conv.N * plan.chunks * plan.block_shares,
                 [&](int64_t item, int thread) { compute_item(problem, plan, args, space, item, thread); });
}

#define FASTCONV_TILES_FPROP "in groups with enough channels and filters for tiles, and rows of a sane size"
#define FASTCONV_TILES_DGRAD "gradients without a code, and a stride whose phases the forward kernel takes"

// Refuses groups that leave tiles nearly empty, and padding or dilation that makes packed rows absurdly large.
template <class E>
bool takes(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    if (problem.dtype != (sizeof(E) == 2 ? DType::bfloat16 : DType::float32)) return false;
    if (conv.N == 0 || conv.C == 0 || conv.K == 0 || problem.pool.P == 0 || problem.pool.Q == 0) return false;
    const int64_t channels = conv.C / conv.groups, filters = conv.K / conv.groups;
    if (channels * conv.S < least_channels_filters || filters < least_channels_filters) return false;
    constexpr double limit = 1 << 28;
    const double extent_h = double(conv.R - 1) * double(conv.dilation_h) + double(conv.stride_h);
    const double width = double(conv.Q) * double(conv.stride_w) + double(conv.S) * double(conv.dilation_w);
    const double window = double(problem.pool.window_h) * double(problem.pool.dilation_h);
    const double rows = (window < double(conv.P) ? window : double(conv.P)) * double(conv.stride_h) + extent_h;
    const double packed = double(conv.C) * (channels < few_channels ? double(conv.S) : 2);
    return rows * width * packed < limit && double(conv.K) * double(conv.C) * double(conv.R * conv.S) < limit &&
           tiles_permitted();
}

template <class E>
size_t workspace(const Conv2dProblem& problem) {
    return Workspace<E>(problem, Plan<E>(problem), nullptr).bytes;
}

}  // namespace

extern const Implementation<FpropArgs> tiles_bf16_fprop, tiles_fprop;
const Implementation<FpropArgs> tiles_bf16_fprop = {
    "tiles_bf16", "bfloat16 " FASTCONV_TILES_FPROP, takes<bfloat16>, workspace<bfloat16>, nullptr, run<bfloat16>};
const Implementation<FpropArgs> tiles_fprop = {
    "tiles", "float32 " FASTCONV_TILES_FPROP, takes<float>, workspace<float>, nullptr, run<float>, false};

using Dgrad16 = DirectDgrad<tiles_bf16_fprop>;
using Dgrad32 = DirectDgrad<tiles_fprop>;
extern const Implementation<DgradArgs> tiles_bf16_dgrad, tiles_dgrad;
const Implementation<DgradArgs> tiles_bf16_dgrad = {
    "tiles_bf16", "bfloat16 " FASTCONV_TILES_DGRAD, Dgrad16::takes, Dgrad16::workspace, nullptr, Dgrad16::run};
const Implementation<DgradArgs> tiles_dgrad = {
    "tiles", "float32 " FASTCONV_TILES_DGRAD, Dgrad32::takes, Dgrad32::workspace, nullptr, Dgrad32::run, false};

}  // namespace fastconv::cpu::FASTCONV_ISA
