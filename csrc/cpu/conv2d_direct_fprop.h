// fprop computed directly, with bias and epilogue, for operands of type E: float, double, or bfloat16 in pairs
// (terms.h).
//
// A work item is a few rows of one image's output. It packs the input rows that it needs as NHWC, with the padding in
// place. Then, for each block of up to 2 vectors of output channels, it computes its rows of the convolution
// (micro_kernel.h) into a buffer that stays in cache, and the epilogue writes y from there. Groups of pixels may span
// rows, so that small images fill the registers, too. Pixels at the edges skip kernel positions that see only padding
// (pixel_groups.h).
//
// The reduction is cut into passes whose weights stay in L1 over all pixels. With one pass and no epilogue, sums go
// straight to y if it is channels_last. A 1x1 kernel without padding reads a channels_last x in place.
//
// Only the halo of rows between two items is packed twice, and computed twice under an overlapping pool. A few small
// images would make too few items. There several items share the rows, each with some of the blocks, and all rows are
// packed first.
#pragma once

#include "conv2d_epilogue.h"
#include "isa_kernels.h"
#include "micro_kernel.h"
#include "parallel.h"
#include "pixel_groups.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t cache_bytes = 384 << 10;  // of an item's data: stays in L2
constexpr int64_t pass_bytes = 20 << 10;    // of weights: stays in L1
constexpr int64_t least_items = 16;         // enough for a few threads to share evenly
constexpr int64_t few_pixels = 128;         // per item: it is not cut further
constexpr int64_t long_stretch = 128;       // of the reduction: moving on to the next one then costs little
constexpr int64_t wide_group = 64;          // channels of a group that make a stretch long enough
constexpr int64_t shared_pieces = 4;        // pieces in which shared rows are packed

template <class E>
struct Plan {
    using T = Computed<E>;
    static constexpr int64_t line = 64 / int64_t(sizeof(E));  // elements of a line of the cache

    int64_t channels, filters;  // per group
    int64_t blocks_per_group, blocks;
    int64_t kernel_row;                        // S * channels
    int64_t stretch, stretches, piece, parts;  // the reduction is `stretches` of `stretch`, cut into pieces
    int64_t stretch_terms, reduction;          // of a stretch, of all: in terms
    int64_t planes;                            // of the packed input: the groups, if each is packed by itself
    int64_t width, pixel;                      // of a plane: pixels per row, elements per pixel
    int64_t rows, chunks;                      // rows: (pooled) output rows per item; chunks: per image
    int64_t block_shares;                      // items of a chunk, each with some of the blocks
    int64_t conv_rows, input_rows;             // at most, per item

    explicit Plan(const Conv2dProblem& problem) {
        const Conv2d& conv = problem.conv;
        const Pool2d& pool = problem.pool;
        constexpr int64_t block = max_vectors * lanes<T>;
        channels = conv.C / conv.groups, filters = conv.K / conv.groups;
        blocks_per_group = ceil_div(filters, block), blocks = blocks_per_group * conv.groups;
        kernel_row = conv.S * channels;
        // Groups of few channels are packed one by one, so that a stretch is a whole row of the kernel, too.
        planes = conv.dilation_w == 1 && conv.S > 1 && channels < wide_group ? conv.groups : 1;
        const int64_t together = conv.C / planes;
        const bool whole_rows = together == channels && conv.dilation_w == 1 && channels < long_stretch;
        // Pixels whose addresses share a few sets of L1 are moved apart.
        pixel = whole_rows || together % (4 * line) ? together : together + line;
        stretch = whole_rows ? conv.S * channels : channels;
        stretches = whole_rows ? conv.R : conv.R * conv.S;
        piece = round_up(ceil_div(stretch, ceil_div(stretch, pass_terms(max_vectors) * term<E>)), term<E>);
        stretch_terms = terms_of<E>(stretch), reduction = stretches * stretch_terms;
        parts = stretches * ceil_div(stretch, piece);
        width = (conv.Q - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1;
        // As many rows as the cache holds, in even chunks; fewer if there would be too few items. Where no input row is
        // needed twice, an item has all blocks and reads x once.
        const bool no_halo = (conv.R - 1) * conv.dilation_h < conv.stride_h && pool.window_h == 1;
        for (chunks = 1;; ++chunks) {
            rows = ceil_div(pool.P, chunks);
            conv_rows = min(conv.P, (rows - 1) * pool.stride_h + (pool.window_h - 1) * pool.dilation_h + 1);
            input_rows = (conv_rows - 1) * conv.stride_h + (conv.R - 1) * conv.dilation_h + 1;
            if (rows == 1) break;
            if (item_bytes(conv) > cache_bytes || conv.N * chunks * blocks < least_items) continue;
            if (!no_halo || conv.N * chunks >= least_items || rows * conv.Q < few_pixels) break;
        }
        chunks = ceil_div(pool.P, rows);
        block_shares = min(blocks, ceil_div(least_items, max(1, conv.N * chunks)));
    }

    // Whether the pixels of x can be read in place.
    bool reads_in_place(const Conv2d& conv, const Tensor& x) const {
        const double extent = double(conv_rows * conv.stride_h) * double(x.stride[2]);
        return conv.R == 1 && conv.S == 1 && conv.pad_h == 0 && conv.pad_w == 0 &&
               (conv.P - 1) * conv.stride_h < conv.H && (conv.Q - 1) * conv.stride_w < conv.W && x.stride[1] == 1 &&
               element_bytes(x.dtype) == sizeof(E) && extent + double(conv.W) * double(x.stride[3]) < double(INT32_MAX);
    }
    int64_t plane_size() const { return input_rows * width * pixel; }
    int64_t input_size() const { return planes * plane_size(); }
    int64_t group_offset(int64_t group) const { return group * (planes > 1 ? plane_size() : channels); }
    int64_t item_bytes(const Conv2d& conv) const {
        return input_size() * int64_t(sizeof(E)) + conv_rows * conv.Q * max_vectors * lanes<T> * int64_t(sizeof(T));
    }
    static int64_t pass_terms(int vectors) { return pass_bytes / (vectors * lanes<T> * int64_t(sizeof(T))); }
    int64_t first_filter(int64_t block) const {  // within the group
        return block % blocks_per_group * max_vectors * lanes<T>;
    }
    int vectors(int64_t block) const { return filters - first_filter(block) > lanes<T> ? 2 : 1; }
    // Whether a block's sums can be computed in place in y: in one pass, by whole blocks of one size.
    bool straight_to(const Tensor& y, const Epilogue& epilogue) const {
        const int of_all = vectors(0);
        const double extent = double(y.size[2]) * double(y.stride[2]) + double(y.size[3]) * double(y.stride[3]);
        return epilogue.activation == Activation::none && reduction <= pass_terms(of_all) &&
               filters % (of_all * lanes<T>) == 0 && element_bytes(y.dtype) == sizeof(T) && y.stride[1] == 1 &&
               y.stride[2] % of_all == 0 && y.stride[3] % of_all == 0 && extent < double(INT32_MAX);
    }
};

// Memory that threads share, and memory of each thread.
template <class E>
struct Workspace {
    using T = Computed<E>;

    E* weights;  // [block][term][max_vectors * lanes]
    T* bias;     // [block][max_vectors * lanes]
    Part* parts;
    Spans columns;       // of the convolution's output
    E* shared_input;     // of all chunks, if items share it
    E *filters, *input;  // of thread 0, like all below; the next thread's is `per_thread` bytes further
    T *conv, *row;
    Pixel* pixels;
    PixelClass* classes;
    Part* clipped;  // the parts that one class needs
    size_t per_thread, bytes;

    Workspace(const Conv2dProblem& problem, const Plan<E>& plan, void* start) {
        const Conv2d& conv_ = problem.conv;
        constexpr int64_t block = max_vectors * lanes<T>;
        Carver carver(start);
        weights = carver.take<E>(plan.blocks * plan.reduction * block * term<E>);
        bias = carver.take<T>(plan.blocks * block);
        parts = carver.take<Part>(plan.parts);
        const bool share = plan.block_shares > 1;
        shared_input = carver.take<E>(share ? conv_.N * plan.chunks * plan.input_size() : 0);
        const size_t shared = carver.used();
        filters = carver.take<E>(plan.reduction * block * term<E>);
        input = carver.take<E>(share ? 0 : plan.input_size());
        conv = carver.take<T>(plan.conv_rows * conv_.Q * block);
        row = carver.take<T>(problem.pool.Q * block);
        pixels = carver.take<Pixel>(plan.conv_rows * conv_.Q);
        classes = carver.take<PixelClass>(max_classes);
        clipped = carver.take<Part>(plan.parts);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }

    template <class U>
    U* of(int thread, U* of_thread_0) const {
        return of_thread(of_thread_0, thread, per_thread);
    }
};

// A place in the reduction: elements and terms before it.
struct Place {
    int64_t element, term;

    template <class E>
    Place behind(const Part& part) const {
        return {element + part.length, term + terms_of<E>(part.length)};
    }
};

// Lists the parts that a class of pixels needs of those from `start` on. Returns the end of the list.
template <class E>
Part* clip(const Plan<E>& plan, const PixelClass& needs, Place start, const Part* part, const Part* last,
           Part* clipped) {
    for (int64_t next = start.term; part < last; start = start.behind<E>(*part++)) {
        const int64_t r = start.element / plan.kernel_row, row = r * plan.kernel_row - start.element;
        if (r < needs.rows.first || r >= needs.rows.last) continue;
        int64_t from = max(0, row + needs.columns.first * plan.channels);
        int64_t to = min(part->length, row + needs.columns.last * plan.channels);
        if (from >= to) continue;
        from = from / term<E> * term<E>, to = min(part->length, round_up(to, term<E>));
        const int64_t first_term = start.term + from / term<E>;
        *clipped++ = {int32_t(part->offset + from), int32_t(to - from), int32_t(first_term - next)};
        next = first_term + terms_of<E>(to - from);
    }
    return clipped;
}

// Computes the convolution of an item's pixels for one block: out is [pixel][VECTORS * lanes].
template <class E, int VECTORS>
void compute_block(const Conv2d& conv, const Plan<E>& plan, const Workspace<E>& space, int thread, const E* x,
                   int64_t classes, const E* w, const Computed<E>* bias, Computed<E>* out) {
    const PixelClass* const some = space.of(thread, space.classes);
    const Pixel* const pixels = space.of(thread, space.pixels);
    Part* const clipped = space.of(thread, space.clipped);
    Place start = {0, 0};
    for (const Part *first = space.parts, *end = first + plan.parts, *last; first < end; first = last) {
        Place stop = start;
        for (last = first; last < end; ++last) {
            const Place next = stop.behind<E>(*last);
            if (last > first && next.term - start.term > Plan<E>::pass_terms(VECTORS)) break;
            stop = next;
        }
        for (const PixelClass* pixel_class = some; pixel_class < some + classes; ++pixel_class) {
            const Part *from = first, *to = last;
            if (pixel_class->positions() < conv.R * conv.S)
                from = clipped, to = clip(plan, *pixel_class, start, first, last, clipped);
            if (!bias && from == to) continue;
            for (const PixelGroups& groups : pixel_class->groups)
                run_groups<E, VECTORS>(groups, x, pixels, from, to, w, bias, out);
        }
        w += (stop.term - start.term) * (VECTORS * lanes<Computed<E>> * term<E>);
        start = stop, bias = nullptr;
    }
}

// Packs the terms of one block from rows of elements: out is [term][width] from [stretch][element][width].
template <class E>
void pack_terms(const Plan<E>& plan, const E* rows, int64_t width, E* out) {
    if constexpr (term<E> > 1)
        for (int64_t i = 0; i < plan.stretches; ++i)
            for (int64_t j = 0; j < plan.stretch; j += 2, out += 2 * width) {
                const E* row = rows + (i * plan.stretch + j) * width;
                interleave(row, j + 1 < plan.stretch ? row + width : nullptr, width, out);
            }
}

// Packs the filters of one block. `filters` has room for them.
template <class E>
void pack_weights(const Conv2dProblem& problem, const Plan<E>& plan, const FpropArgs& args, int64_t block, E* filters,
                  E* out, Computed<E>* bias) {
    using T = Computed<E>;
    const int64_t width = plan.vectors(block) * lanes<T>, first = plan.first_filter(block);
    const int64_t first_k = block / plan.blocks_per_group * plan.filters + first;
    const int64_t count = min(width, plan.filters - first);
    for (int64_t i = 0; i < width; ++i)
        bias[i] = args.bias.data && i < count ? value_at<T>(args.bias, (first_k + i) * args.bias.stride[0]) : T(0);
    const Tensor& w = args.w;
    const int64_t positions = problem.conv.R * problem.conv.S;
    if (w.stride[1] == 1 && (positions > 1 || term<E> > 1)) {
        // Whole filters, with their stretches in whole terms. Then terms move as if each were one float.
        const bool whole_rows = plan.stretches == problem.conv.R;
        const int64_t padded = plan.stretch_terms * term<E>, size = plan.reduction * term<E>;
        const int64_t s_step = whole_rows ? plan.channels : padded;
        if (plan.stretch < padded || count < width) clear_row(width * size, filters);
        for (int64_t i = 0; i < count; ++i)
            pack_filter(w, first_k + i, filters + i * size, whole_rows ? padded : problem.conv.S * padded, s_step);
        return copy2d(width, plan.reduction, reinterpret_cast<const T*>(filters), plan.reduction, 1,
                      reinterpret_cast<T*>(out), 1, width);
    }
    E* const rows = term<E> == 1 ? out : filters;  // [element][width]
    if (count < width) clear_row(plan.channels * positions * width, rows);
    pack_filter_rows(w, first_k, count, width, rows);
    pack_terms(plan, rows, width, out);
}

template <class E>
void list_parts(const Conv2d& conv, const Plan<E>& plan, Part* part) {
    const bool whole_rows = plan.stretches == conv.R;
    for (int64_t i = 0; i < plan.stretches; ++i) {
        const int64_t r = whole_rows ? i : i / conv.S, s = whole_rows ? 0 : i % conv.S;
        const int64_t start = (r * conv.dilation_h * plan.width + s * conv.dilation_w) * plan.pixel;
        for (int64_t at = 0; at < plan.stretch; at += plan.piece)
            *part++ = {int32_t(start + at), int32_t(min(plan.piece, plan.stretch - at)), 0};
    }
}

// Packs one of `pieces` of the input rows of a chunk.
template <class E>
void pack_input(const Conv2d& conv, const Plan<E>& plan, const Tensor& x, const ChunkRows& chunk, int64_t piece,
                int64_t pieces, E* input) {
    const int64_t conv_rows = chunk.needed.last - chunk.needed.first;
    if (conv_rows <= 0) return;
    const int64_t rows = (conv_rows - 1) * conv.stride_h + (conv.R - 1) * conv.dilation_h + 1;
    const int64_t first = rows * piece / pieces, last = rows * (piece + 1) / pieces;
    const int64_t channels = conv.C / plan.planes;
    for (int64_t plane = 0; plane < plan.planes; ++plane)
        pack_rows(channels_of(x, plane * channels, channels), chunk.n,
                  chunk.needed.first * conv.stride_h - conv.pad_h + first, last - first, -conv.pad_w, plan.width,
                  plan.pixel, input + plane * plan.plane_size() + first * plan.width * plan.pixel);
}

template <class E>
void compute_item(const Conv2dProblem& problem, const Plan<E>& plan, const FpropArgs& args, const Workspace<E>& space,
                  int64_t item, int thread) {
    using T = Computed<E>;
    const Conv2d& conv = problem.conv;
    const Tensor& y = args.y;
    const int64_t share = item % plan.block_shares, number = item / plan.block_shares;
    const ChunkRows chunk(problem, plan, number);
    const Spans rows(chunk.needed, conv.stride_h, conv.pad_h, conv.dilation_h, conv.R, conv.H);
    PixelSteps steps = {conv.stride_h * plan.width * plan.pixel, conv.stride_w * plan.pixel, conv.Q * lanes<T>,
                        lanes<T>};
    E* input = space.shared_input + number * plan.input_size();
    T* const buffer = space.of(thread, space.conv);
    if (plan.reads_in_place(conv, args.x)) {
        const Tensor& x = args.x;
        steps.row = conv.stride_h * x.stride[2], steps.column = conv.stride_w * x.stride[3];
        input = static_cast<E*>(x.data) + chunk.n * x.stride[0] + chunk.needed.first * steps.row;
    } else if (plan.block_shares == 1) {
        input = space.of(thread, space.input);
        pack_input(conv, plan, args.x, chunk, 0, 1, input);
    }
    const bool straight = plan.straight_to(y, problem.epilogue);
    if (straight) steps.place_row = y.stride[2] / plan.vectors(0), steps.place_column = y.stride[3] / plan.vectors(0);
    const int64_t classes =
        group_pixels(rows, space.columns, steps, space.of(thread, space.pixels), space.of(thread, space.classes));

    constexpr int64_t widest = max_vectors * lanes<T>;
    for (int64_t block = plan.blocks * share / plan.block_shares; block < plan.blocks * (share + 1) / plan.block_shares;
         ++block) {
        const int vectors = plan.vectors(block);
        const int64_t width = vectors * lanes<T>, group = block / plan.blocks_per_group;
        const int64_t first_k = group * plan.filters + plan.first_filter(block);
        const int64_t count = min(width, plan.filters - plan.first_filter(block));
        T* out = buffer;
        if (straight) out = static_cast<T*>(y.data) + chunk.n * y.stride[0] + chunk.first * y.stride[2] + first_k;
        (vectors == 1 ? compute_block<E, 1>
                      : compute_block<E, 2>)(conv, plan, space, thread, input + plan.group_offset(group), classes,
                                             space.weights + block * plan.reduction * widest * term<E>,
                                             space.bias + block * widest, out);
        if (!straight)
            run_epilogue(problem, args, chunk.n, chunk.first, chunk.last, buffer, conv.Q, chunk.needed.first, vectors,
                         first_k, count, space.of(thread, space.row));
    }
}

template <class E>
void run(const Conv2dProblem& problem, const FpropArgs& args, const Launch& launch) {
    const Plan<E> plan(problem);
    Workspace<E> space(problem, plan, launch.workspace);
    const Conv2d& conv = problem.conv;
    space.columns = Spans({0, conv.Q}, conv.stride_w, conv.pad_w, conv.dilation_w, conv.S, conv.W);
    constexpr int64_t widest = max_vectors * lanes<Computed<E>>;
    list_parts(conv, plan, space.parts);
    const bool share = plan.block_shares > 1 && !plan.reads_in_place(conv, args.x);
    const int64_t pieces = share ? conv.N * plan.chunks * shared_pieces : 0;
    parallel_for(problem.threads, pieces + plan.blocks, [&](int64_t item, int thread) {
        const int64_t chunk = item / shared_pieces, block = item - pieces;
        if (item < pieces)
            return pack_input(conv, plan, args.x, ChunkRows(problem, plan, chunk), item % shared_pieces, shared_pieces,
                              space.shared_input + chunk * plan.input_size());
        pack_weights(problem, plan, args, block, space.of(thread, space.filters),
                     space.weights + block * plan.reduction * widest * term<E>, space.bias + block * widest);
    });
    parallel_for(problem.threads, conv.N * plan.chunks * plan.block_shares,
                 [&](int64_t item, int thread) { compute_item(problem, plan, args, space, item, thread); });
}

// Refuses the few channels per group of a depthwise convolution, and padding or dilation that makes packed rows
// absurdly large.
template <class E>
bool takes(const Conv2dProblem& problem) {
    using T = Computed<E>;
    const Conv2d& conv = problem.conv;
    if (conv.N == 0 || conv.C == 0 || conv.K == 0 || problem.pool.P == 0 || problem.pool.Q == 0) return false;
    if (conv.groups > 1 && (conv.K / conv.groups) * least_direct_share < lanes<T>) return false;
    constexpr double limit = 1 << 28;
    const double extent_h = double(conv.R - 1) * double(conv.dilation_h) + 1;
    const double width = double(conv.Q) * double(conv.stride_w) + double(conv.S) * double(conv.dilation_w);
    const double window = double(problem.pool.window_h) * double(problem.pool.dilation_h);
    const double rows = (window < double(conv.P) ? window : double(conv.P)) * double(conv.stride_h) + extent_h;
    if (rows * width * lanes<T> >= 8 * limit) return false;  // a pixel's offset is an int
    return rows * width * double(conv.C) < limit && double(conv.K) * double(conv.C) * double(conv.R * conv.S) < limit;
}

constexpr const char* fprop_condition = "groups whose filters fill a quarter of a vector, and rows of a sane size";

template <class E>
size_t workspace(const Conv2dProblem& problem) {
    return Workspace<E>(problem, Plan<E>(problem), nullptr).bytes;
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
