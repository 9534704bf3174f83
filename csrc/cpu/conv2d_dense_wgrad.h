// wgrad of dense gradients, for operands of type E: float, double, or bfloat16 in pairs of pixels (terms.h). The
// gradients of weight and bias are a matrix product over pixels (n, p, q).
//
//   dw[tap][k] += x[tap][pixel] * dy[pixel][k]      a tap (c, r, s) is a position of every filter
//
// The product uses the forward's micro-kernel with taps as its pixels and pixels as its reduction, or another Product
// that multiplies the same packed operands. dy is packed in
// blocks of up to 2 vectors of filters. x is packed as planes, with the padding in place, one plane per phase of the
// stride. So every tap reads x along whole rows, and along whole images where no tap needs more columns than dy has.
//
// Pixels come in chunks: some rows of an image, or some small images. A large dw is cut into tiles, each some taps of
// one block: all threads pack a chunk, then multiply it for one tile after another. With a small dw, a work item is a
// range of chunks, which one thread packs and multiplies for all tiles. The ranges' sums are added up at the end.
//
// Every sum has one owner, which adds chunks, and then ranges, in order: the same bits for any number of threads.
#pragma once

#include "isa_kernels.h"
#include "micro_kernel.h"
#include "pack.h"
#include "parallel.h"
#include "pool_window.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t pass_bytes = 16 << 10;         // of a block of dy: stays in L1 over all taps
constexpr int64_t shared_chunk_bytes = 1 << 20;  // of packed x and dy, shared by all threads
constexpr int64_t own_chunk_bytes = 256 << 10;   // of packed x and dy, of one thread
constexpr int64_t ranges_bytes = 1 << 20;        // of all ranges' sums
constexpr int64_t most_ranges = 64, least_range_pixels = 128;
constexpr int64_t least_tiles = 32;            // fewer leave threads without work
constexpr int64_t tile_taps = 4 * max_pixels;  // at least, to pay for loading a block of dy
constexpr int64_t channels_packed = 16;        // at a time
template <class E>
constexpr int64_t pixels_packed = 16 * term<E>;  // at a time

template <class E>
struct Plan {
    using T = Computed<E>;
    static constexpr int64_t block_filters = max_vectors * lanes<T>;
    static constexpr int64_t line = 64 / int64_t(sizeof(E));  // elements of a line of the cache

    int64_t channels, filters, taps;   // per group
    int64_t channel_step;              // channels that a tile has a multiple of
    int64_t blocks_per_group, blocks;  // blocks of filters
    int64_t shares;                    // tiles of a block, each with some of the channels
    int64_t phases_h, phases_w;        // planes per channel of an image
    int64_t images, rows;              // per chunk
    int64_t chunks_per_image, chunks, ranges;
    int64_t halo, plane_rows, width;  // of a plane: rows beyond its chunk's, all rows, columns
    int64_t image_size, pitch;        // elements of packed x from image to image, from channel to channel
    int64_t Q, block_size;            // columns of dy, elements of packed dy

    Plan(const Conv2dProblem& problem, int64_t channel_step_) : channel_step(channel_step_) {
        const Conv2d& conv = problem.conv;
        channels = conv.C / conv.groups, filters = conv.K / conv.groups, taps = channels * conv.R * conv.S;
        blocks_per_group = ceil_div(filters, block_filters), blocks = blocks_per_group * conv.groups;
        shares = max(1, min(channels / channel_step, taps / tile_taps));
        phases_h = phases_of(conv.R, conv.stride_h, conv.dilation_h);
        phases_w = phases_of(conv.S, conv.stride_w, conv.dilation_w);

        halo = (conv.R - 1) * conv.dilation_h / conv.stride_h;
        width = conv.Q + (conv.S - 1) * conv.dilation_w / conv.stride_w;

        // A chunk is as many pixels as the cache holds. It is larger where it would be too few to pay for adding to all
        // of dw, but at most four times as large. Ranges serve where tiles are too few and each range has enough
        // pixels.
        Q = conv.Q;
        const int64_t image = conv.P * conv.Q, total = conv.N * image;
        const int64_t x_image = conv.C * phases_h * phases_w * (conv.P + halo) * width;
        const int64_t pixel_bytes = (ceil_div(x_image, image) + blocks * block_filters) * int64_t(sizeof(E));
        const auto pixels_in = [&](int64_t bytes, int64_t least) {
            return max(min(least, 4 * bytes / pixel_bytes), bytes / pixel_bytes);
        };
        int64_t pixels = pixels_in(shared_chunk_bytes, pass_pixels(max_vectors));
        ranges = min(min(most_ranges, ranges_bytes / dw_bytes()), total / least_range_pixels);
        if (blocks * shares >= least_tiles || ranges <= 1) ranges = 1;
        else pixels = min(total / ranges, pixels_in(own_chunk_bytes, least_range_pixels));
        images = ceil_div(conv.N, ceil_div(conv.N, max(1, pixels / image)));
        rows = ceil_div(conv.P, min(conv.P, ceil_div(image, max(1, pixels))));
        chunks_per_image = ceil_div(conv.P, rows);
        chunks = ceil_div(conv.N, images) * chunks_per_image;
        ranges = min(ranges, chunks);

        plane_rows = rows + halo;
        image_size = phases_h * phases_w * plane_rows * width;
        // An odd number of lines spreads channels over the sets of the cache.
        pitch = (ceil_div(images * image_size, line) | 1) * line;
        block_size = images * (rows / run_rows(rows)) * terms_of<E>(run_rows(rows) * conv.Q) * term<E> * block_filters;
    }

    static int64_t pass_pixels(int vectors) { return pass_bytes / (vectors * lanes<T> * int64_t(sizeof(T))) * term<E>; }
    // The rows of dy in a run. Rows that follow each other in a plane of x, too, are packed as one run, in whole terms.
    int64_t run_rows(int64_t rows) const { return width == Q ? rows : 1; }
    int64_t dw_size() const { return blocks * taps * block_filters; }
    int64_t dw_bytes() const { return dw_size() * int64_t(sizeof(T)); }
    int64_t first_filter(int64_t block) const {
        return block / blocks_per_group * filters + block % blocks_per_group * block_filters;
    }
    int64_t filters_of(int64_t block) const {
        return min(block_filters, filters - block % blocks_per_group * block_filters);
    }
    int vectors(int64_t block) const { return filters_of(block) > lanes<T> ? 2 : 1; }
    int64_t width_of(int64_t block) const { return vectors(block) * lanes<T>; }
    int64_t first_channel(int64_t share) const { return channels / channel_step * share / shares * channel_step; }
    int64_t most_channels() const { return ceil_div(channels / channel_step, shares) * channel_step; }  // per tile
};

struct Chunk {
    int64_t first_image, images, first_row, rows;
    int64_t runs, run;  // of an image, pixels of a run

    template <class E>
    Chunk(const Plan<E>& plan, const Conv2d& conv, int64_t number)
        : first_image(number / plan.chunks_per_image * plan.images),
          images(min(plan.images, conv.N - first_image)),
          first_row(number % plan.chunks_per_image * plan.rows),
          rows(min(plan.rows, conv.P - first_row)),
          runs(rows / plan.run_rows(rows)),
          run(plan.run_rows(rows) * conv.Q) {}
    template <class E>
    int64_t terms() const {
        return images * runs * terms_of<E>(run);
    }
};

// A packed chunk.
template <class E>
struct Operands {
    E *x, *dy;    // [C][images][planes], [block][term][vectors * lanes]
    Part* parts;  // runs of pixels that are neighbors in memory
};

template <class E>
struct Workspace {
    using T = Computed<E>;

    T* dw;                 // [range][block][tap][vectors * lanes]; with one chunk: one tile, of thread 0
    double* bias;          // [range][k]
    Pixel* taps;           // of the first group
    Operands<E> operands;  // of thread 0, if there are ranges
    size_t per_thread, bytes;

    // row_parts: parts of a row of dy, at most
    Workspace(const Conv2dProblem& problem, const Plan<E>& plan, int64_t row_parts, void* start) {
        const Conv2d& conv = problem.conv;
        Carver carver(start);
        bias = carver.take<double>(plan.ranges * conv.K);
        taps = carver.take<Pixel>(plan.taps);
        const auto take_operands = [&] {
            operands.x = carver.take<E>(conv.C * plan.pitch);
            operands.dy = carver.take<E>(plan.blocks * plan.block_size);
            operands.parts = carver.take<Part>(plan.images * plan.rows * row_parts);
        };
        if (plan.chunks > 1) dw = carver.take<T>(plan.ranges * plan.dw_size());
        if (plan.ranges == 1) take_operands();
        const size_t shared = carver.used();
        if (plan.chunks == 1) dw = carver.take<T>(plan.most_channels() * conv.R * conv.S * plan.block_filters);
        if (plan.ranges > 1) take_operands();
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
    Operands<E> operands_of(int thread) const {
        const auto mine = [&](auto* of_thread_0) { return of_thread(of_thread_0, thread, per_thread); };
        return {mine(operands.x), mine(operands.dy), mine(operands.parts)};
    }
    // The sums of a block's taps from first_tap on.
    T* sums_of(const Plan<E>& plan, int64_t range, int64_t block, int64_t first_tap, int thread) const {
        if (plan.chunks == 1) return of_thread(dw, thread, per_thread);
        return dw + range * plan.dw_size() + block * plan.taps * plan.block_filters + first_tap * plan.width_of(block);
    }
};

template <class E>
void list_taps(const Conv2d& conv, const Plan<E>& plan, Pixel* tap) {
    for (int64_t i = 0; i < plan.taps; ++i) {
        const int64_t c = i / (conv.R * conv.S), r = i / conv.S % conv.R, s = i % conv.S;
        *tap++ = {int32_t(c * plan.pitch + place_in_planes(conv, plan, r, s)), int32_t(i * lanes<Computed<E>>)};
    }
}

// Lists a chunk's pixels as parts: pieces(n) of each n neighbors. Returns the number of parts.
template <class E, class Pieces>
int64_t list_parts(const Plan<E>& plan, const Chunk& chunk, const Pieces& pieces_of, Part* parts) {
    int64_t count = 0, start = 0, length = 0;
    const auto start_of = [&](int64_t piece, int64_t pieces) {
        return piece == pieces ? length : length * piece / pieces / term<E> * term<E>;
    };
    const auto cut = [&] {
        const int64_t pieces = pieces_of(length);
        for (int64_t i = 0; i < pieces; ++i) {
            const int64_t from = start_of(i, pieces), to = start_of(i + 1, pieces);
            parts[count++] = {int32_t(start + from), int32_t(to - from), 0};
        }
    };
    for (int64_t image = 0; image < chunk.images; ++image)
        for (int64_t run = 0; run < chunk.runs; ++run) {
            const int64_t at = image * plan.image_size + run * plan.width;
            if (at != start + length || length % term<E>) cut(), start = at, length = 0;
            length += chunk.run;
        }
    cut();
    return count;
}

// Packs some channels of one image of x.
template <class E>
void pack_planes(const Conv2d& conv, const Plan<E>& plan, const Chunk& chunk, const Tensor& x, int64_t image,
                 int64_t first_c, int64_t count, E* out) {
    out += first_c * plan.pitch + image * plan.image_size;
    const auto each_channel = [&](const auto& body) {
        for (int64_t c = 0; c < count; ++c) body(out + c * plan.pitch);
    };
    with_elements<E>(x, [&](const auto* data) {
        data += (chunk.first_image + image) * x.stride[0] + first_c * x.stride[1];
        for (int64_t plane = 0; plane < plan.phases_h * plan.phases_w; ++plane) {
            const int64_t h0 =
                chunk.first_row * conv.stride_h - conv.pad_h + plane / plan.phases_w * conv.dilation_h % conv.stride_h;
            const int64_t w0 = plane % plan.phases_w * conv.dilation_w % conv.stride_w - conv.pad_w;
            int64_t rows = chunk.rows + plan.halo, columns = plan.width, W = conv.W;
            // Consecutive rows without padding are one run.
            if (w0 == 0 && columns == W && conv.stride_h == 1 && conv.stride_w == 1 && h0 >= 0 && h0 + rows <= conv.H &&
                x.stride[2] == W * x.stride[3])
                columns = W = columns * rows, rows = 1;
            const int64_t first = min(columns, ceil_div(max(0, -w0), conv.stride_w));
            const int64_t last = max(first, min(columns, ceil_div(W - w0, conv.stride_w)));
            for (int64_t row = 0; row < rows; ++row) {
                const int64_t h = h0 + row * conv.stride_h, at = (plane * plan.plane_rows + row) * plan.width;
                const bool inside = h >= 0 && h < conv.H;
                const int64_t from = inside ? first : columns, to = inside ? last : columns;
                if (from > 0) each_channel([&](E* channel) { clear_row(from, channel + at); });
                if (to < columns) each_channel([&](E* channel) { clear_row(columns - to, channel + at + to); });
                if (from < to)
                    copy2d(count, to - from, data + h * x.stride[2] + (w0 + from * conv.stride_w) * x.stride[3],
                           x.stride[1], conv.stride_w * x.stride[3], out + at + from, plan.pitch, 1);
            }
        }
    });
}

// Packs some blocks of dy. A channels_last dy is read a few pixels at a time, from one end to the other.
template <class E>
void pack_gradients(const Conv2d& conv, const Plan<E>& plan, const Chunk& chunk, const Tensor& dy, int64_t first_block,
                    int64_t last_block, E* out) {
    const bool contiguous = dy.stride[2] == conv.Q * dy.stride[3];  // across rows
    // Terms begin with each run; single elements need no such cut.
    const int64_t runs = term<E> == 1 && contiguous ? 1 : chunk.runs, run_rows = chunk.rows / runs;
    const int64_t run = run_rows * conv.Q;
    const int64_t together = term<E> > 1 || dy.stride[1] == 1 ? pixels_packed<E> : run;
    E rows[term<E> > 1 ? pixels_packed<E> * Plan<E>::block_filters : 1];  // pixels before they become terms
    for (int64_t block = first_block; block < last_block; ++block)
        if (plan.filters_of(block) < plan.width_of(block)) clear_row(plan.block_size, out + block * plan.block_size);
    with_elements<E>(dy, [&](const auto* data) {
        int64_t terms = 0;
        for (int64_t item = 0; item < chunk.images * runs; ++item) {
            const auto* from = data + (chunk.first_image + item / runs) * dy.stride[0] +
                               (chunk.first_row + item % runs * run_rows) * dy.stride[2];
            for (int64_t first = 0, count; first < run; first += count, terms += terms_of<E>(count)) {
                count = min(together, run - first);
                for (int64_t block = first_block; block < last_block; ++block) {
                    const int64_t width = plan.width_of(block), filters = plan.filters_of(block);
                    const int64_t step = term<E> == 1 ? width : filters;
                    E* const to = out + block * plan.block_size + terms * term<E> * width;
                    for (int64_t i = 0, pixels; i < count; i += pixels) {
                        const int64_t row = contiguous ? 0 : (first + i) / conv.Q, q = first + i - row * conv.Q;
                        pixels = contiguous ? count : min(count - i, conv.Q - q);
                        copy2d(pixels, filters,
                               from + row * dy.stride[2] + q * dy.stride[3] + plan.first_filter(block) * dy.stride[1],
                               dy.stride[3], dy.stride[1], (term<E> == 1 ? to : rows) + i * step, step, 1);
                    }
                    if constexpr (term<E> > 1)
                        for (int64_t i = 0; i < count; i += 2)
                            interleave(rows + i * step, i + 1 < count ? rows + (i + 1) * step : nullptr, filters,
                                       to + i * width);
                }
            }
        }
    });
}

// A vector of dy's terms, each summed.
template <class E>
Vec<Computed<E>> load_sums(const E* p) {
    if constexpr (term<E> == 1) return load(p);
    else return sum_of_pair(load_terms(p));
}

// Sums a packed block of dy over its pixels, for `count` filters.
template <class E>
void add_gradients(const E* dy, int64_t terms, int vectors, int64_t count, double* bias) {
    using T = Computed<E>;
    constexpr int W = lanes<T>, at_once = 4;
    constexpr int64_t most = 64 * at_once;  // terms summed in T before they are added in double
    for (int64_t first = 0; first < terms; first += most) {
        const int64_t last = min(terms, first + most);
        for (int v = 0; v < vectors; ++v) {
            Vec<T> sums[at_once] = {};
            const auto at = [&](int64_t i) { return load_sums(dy + (i * vectors + v) * W * term<E>); };
            int64_t i = first;
            for (; i + at_once <= last; i += at_once)
                for (int j = 0; j < at_once; ++j) sums[j] += at(i + j);
            for (; i < last; ++i) sums[0] += at(i);
            const Vec<T> sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
            for (int64_t j = 0; j < min(W, count - v * W); ++j) bias[v * W + j] += sum[j];
        }
    }
}

// Adds products to a block's sums for taps first to last, or writes the first ones.
template <class E, int VECTORS>
void multiply_taps(const Pixel* taps, int64_t first, int64_t last, const Part* part, const Part* last_part, const E* x,
                   const E* dy, bool first_sum, Computed<E>* out) {
    using T = Computed<E>;
    constexpr int W = lanes<T>;
    const T zeros[VECTORS * W] = {};
    PixelGroups groups[2];
    split_evenly(first, last - first, groups);
    int64_t terms;
    for (const Part* to; part < last_part; part = to, dy += terms * (VECTORS * W * term<E>), first_sum = false) {
        terms = 0;
        int64_t pixels = 0;
        for (to = part; to < last_part; terms += terms_of<E>(to->length), pixels += to++->length)
            if (to > part && pixels + to->length > Plan<E>::pass_pixels(VECTORS)) break;
        for (const PixelGroups& some : groups)
            run_groups<E, VECTORS>(some, x, taps, part, to, dy, first_sum ? zeros : nullptr, out);
    }
}

// The product by registers.
template <class E>
struct RegisterProduct {
    static constexpr int64_t channel_step = 1;

    static int64_t pieces(int64_t pixels) { return ceil_div(pixels, Plan<E>::pass_pixels(max_vectors)); }

    // Adds products to a block's sums for some channels, or writes the first ones.
    static void multiply(const Conv2d& conv, const Plan<E>&, const Pixel* taps, Range channels, int vectors,
                         const Part* part, const Part* last_part, const E* x, const E* dy, bool first_sum,
                         Computed<E>* sums) {
        const int64_t positions = conv.R * conv.S, first = channels.first * positions;
        (vectors == 1 ? multiply_taps<E, 1> : multiply_taps<E, 2>)(taps, first, channels.last * positions, part,
                                                                   last_part, x, dy, first_sum,
                                                                   sums - first * vectors * lanes<Computed<E>>);
    }
};

// Writes some channels of a block, [tap][vectors * lanes], to their places in dw.
template <class T>
void write_tile(const Conv2d& conv, const T* packed, int64_t width, int64_t first_c, int64_t channels, int64_t first_k,
                int64_t count, const Tensor& dw) {
    const int64_t positions = conv.R * conv.S;
    // Evenly spaced taps are copied together, else the channels of one position.
    const bool even = dw.stride[2] == conv.S * dw.stride[3] && dw.stride[1] == positions * dw.stride[3];
    const int64_t copies = even ? 1 : positions, together = even ? channels * positions : channels;
    with_elements<T>(dw, [&](auto* data) {
        data += first_k * dw.stride[0] + first_c * dw.stride[1];
        for (int64_t i = 0; i < copies; ++i)
            copy2d(together, count, packed + i * width, copies * width, 1,
                   data + i / conv.S * dw.stride[2] + i % conv.S * dw.stride[3], even ? dw.stride[3] : dw.stride[1],
                   dw.stride[0]);
    });
}

template <class E, class Product = RegisterProduct<E>>
void run(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch) {
    using T = Computed<E>;
    const Conv2d& conv = problem.conv;
    const Plan<E> plan(problem, Product::channel_step);
    const Workspace<E> space(problem, plan, Product::pieces(conv.Q), launch.workspace);
    const int64_t channel_groups = args.dw.data ? ceil_div(conv.C, channels_packed) : 0;
    const int64_t tiles = args.dw.data ? plan.blocks * plan.shares : 0;
    for (int64_t i = 0; i < plan.ranges * conv.K; ++i) space.bias[i] = 0;
    list_taps(conv, plan, space.taps);

    const auto pack_dy = [&](const Chunk& chunk, int64_t range, int64_t first, int64_t last, const Operands<E>& to) {
        pack_gradients(conv, plan, chunk, args.dy, first, last, to.dy);
        for (int64_t block = first; args.dbias.data && block < last; ++block)
            add_gradients(to.dy + block * plan.block_size, chunk.terms<E>(), plan.vectors(block),
                          plan.filters_of(block), space.bias + range * conv.K + plan.first_filter(block));
    };
    const auto pack_x = [&](const Chunk& chunk, int64_t item, const Operands<E>& to) {
        const int64_t first_c = item % channel_groups * channels_packed;
        pack_planes(conv, plan, chunk, args.x, item / channel_groups, first_c, min(channels_packed, conv.C - first_c),
                    to.x);
    };
    const auto multiply_tile = [&](int64_t range, int64_t tile, const Operands<E>& from, int64_t parts, bool first,
                                   int thread) {
        const int64_t block = tile / plan.shares, share = tile % plan.shares;
        const Range channels = {plan.first_channel(share), plan.first_channel(share + 1)};
        Product::multiply(conv, plan, space.taps, channels, plan.vectors(block), from.parts, from.parts + parts,
                          from.x + block / plan.blocks_per_group * plan.channels * plan.pitch,
                          from.dy + block * plan.block_size, first,
                          space.sums_of(plan, range, block, channels.first * conv.R * conv.S, thread));
    };
    const auto finish_tile = [&](int64_t tile, int thread) {
        const int64_t block = tile / plan.shares, share = tile % plan.shares, positions = conv.R * conv.S;
        const int64_t first_c = plan.first_channel(share), channels = plan.first_channel(share + 1) - first_c;
        const int64_t width = plan.width_of(block);
        T* sums = space.sums_of(plan, 0, block, first_c * positions, thread);
        for (int64_t range = 1; range < plan.ranges; ++range) {
            const T* more = sums + range * plan.dw_size();
            for (int64_t i = 0; i < channels * positions * width; i += lanes<T>)
                store(sums + i, load(sums + i) + load(more + i));
        }
        write_tile(conv, sums, width, first_c, channels, plan.first_filter(block), plan.filters_of(block), args.dw);
    };

    if (plan.ranges > 1) {
        parallel_for(problem.threads, plan.ranges, [&](int64_t range, int thread) {
            const Operands<E> operands = space.operands_of(thread);
            const int64_t first = plan.chunks * range / plan.ranges;
            for (int64_t number = first; number < plan.chunks * (range + 1) / plan.ranges; ++number) {
                const Chunk chunk(plan, conv, number);
                pack_dy(chunk, range, 0, plan.blocks, operands);
                for (int64_t item = 0; item < channel_groups * chunk.images; ++item) pack_x(chunk, item, operands);
                const int64_t parts = list_parts(plan, chunk, Product::pieces, operands.parts);
                for (int64_t tile = 0; tile < tiles; ++tile)
                    multiply_tile(range, tile, operands, parts, number == first, thread);
            }
        });
        parallel_for(problem.threads, tiles, finish_tile);
    } else {
        for (int64_t number = 0; number < plan.chunks; ++number) {
            const Chunk chunk(plan, conv, number);
            parallel_for(problem.threads, plan.blocks + channel_groups * chunk.images, [&](int64_t item, int) {
                if (item < plan.blocks) pack_dy(chunk, 0, item, item + 1, space.operands);
                else pack_x(chunk, item - plan.blocks, space.operands);
            });
            const int64_t parts = list_parts(plan, chunk, Product::pieces, space.operands.parts);
            parallel_for(problem.threads, tiles, [&](int64_t tile, int thread) {
                multiply_tile(0, tile, space.operands, parts, number == 0, thread);
                if (number + 1 == plan.chunks) finish_tile(tile, thread);
            });
        }
    }
    if (args.dbias.data)
        for (int64_t k = 0; k < conv.K; ++k) {
            double sum = 0;
            for (int64_t range = 0; range < plan.ranges; ++range) sum += space.bias[range * conv.K + k];
            set_value<T>(args.dbias, k * args.dbias.stride[0], T(sum));
        }
}

// Refuses gradients that may be dead, and groups with too few filters. These leave vectors empty, while live_wgrad
// fills vectors with channels.
template <class E>
bool takes(const Conv2dProblem& problem) {
    using T = Computed<E>;
    const Conv2d& conv = problem.conv;
    if (problem.epilogue.activation != Activation::none || conv.N == 0 || conv.C == 0 || conv.P == 0 || conv.Q == 0)
        return false;
    const int64_t channels = conv.C / conv.groups, filters = conv.K / conv.groups;
    if (filters * 2 < lanes<T> || (filters < lanes<T> && channels >= lanes<T>)) return false;
    constexpr double limit = 1 << 28;
    const double width = double(conv.Q) * double(conv.stride_w) + double(conv.S) * double(conv.dilation_w);
    const double height = double(conv.P) * double(conv.stride_h) + double(conv.R) * double(conv.dilation_h);
    return height * width * double(conv.C) < limit && double(conv.P) * double(conv.Q) * double(conv.K) < limit &&
           double(conv.K) * double(conv.C) * double(conv.R) * double(conv.S) < limit;
}

constexpr const char* condition = "gradients without a code, of filters that fill vectors";

template <class E, class Product = RegisterProduct<E>>
size_t workspace(const Conv2dProblem& problem) {
    const Plan<E> plan(problem, Product::channel_step);
    return Workspace<E>(problem, plan, Product::pieces(problem.conv.Q), nullptr).bytes;
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
