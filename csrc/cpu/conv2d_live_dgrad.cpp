// dgrad from the live gradients (live.h), for sparse gradients:
//
//   dx[p * stride + r, q * stride + s, c] += sum over live (k, g) of pixel (p, q): g * w[k][r, s, c]
//
// A work item is a block of rows of one image's dx, padding included. It takes the pixels that reach into the block a
// few rows at a time and lists each pixel's live gradients of all k. It adds their products with one piece of the
// kernel and one set of filters at a time, so that this piece of these filters stays in L1. Then it writes the block
// without its padding. Rows of pixels that reach into two blocks are listed twice.
//
// A row of dx has one owner, which adds in a fixed order: the same bits for any number of threads.
#include "isa_kernels.h"
#include "live.h"
#include "parallel.h"
#include "pool_window.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t block_bytes = 256 << 10;   // rows of dx of an item: stays in L2
constexpr int64_t filters_bytes = 24 << 10;  // one piece of a set's filters: stays in L1
constexpr int64_t least_items = 8;
constexpr int64_t least_pixels = 48;  // listed at a time: enough to reuse filters once they are in L1

// A window over a row or column of pixels: its number, and the position of the pixels in it.
struct Cover {
    int64_t window, position;
};

// Lists the windows over place p, of `count` windows. Returns the end of the list.
inline Cover* list_covers(int64_t p, int64_t window, int64_t stride, int64_t pad, int64_t dilation, int64_t count,
                          Cover* cover) {
    for (int64_t i = 0; i < window; ++i) {
        const int64_t start = p + pad - i * dilation;
        if (start >= 0 && start % stride == 0 && start / stride < count) *cover++ = {start / stride, i};
    }
    return cover;
}

template <class T>
struct DgradPlan {
    int64_t width;              // of dx with its padding
    int64_t channels, filters;  // per group
    Slabs<T> slabs;
    int64_t piece_size;                         // elements of a piece of a slab
    int64_t set_filters, sets_per_group, sets;  // a pixel has one list per set of filters
    int64_t rows_listed;                        // rows of pixels listed at a time
    int64_t capacity;                           // of the lists of these rows, in entries
    int64_t block_rows, blocks;                 // block_rows: rows of dx per item; blocks: items per image
    int64_t block_size;                         // elements
    int64_t dy_rows;                            // rows of dy that reach into a block, at most

    static int64_t padded_width(const Conv2d& conv) {
        return max(conv.W + conv.pad_w, (conv.Q - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1);
    }

    explicit DgradPlan(const Conv2dProblem& problem)
        : width(padded_width(problem.conv)),
          channels(problem.conv.C / problem.conv.groups),
          filters(problem.conv.K / problem.conv.groups),
          slabs(problem.conv, width, problem.conv.C, channels) {
        const Conv2d& conv = problem.conv;
        const Pool2d& pool = problem.pool;
        piece_size = slabs.vectors_at_once * lanes<T>;
        const int64_t piece_bytes = slabs.rows_at_once * piece_size * int64_t(sizeof(T));
        sets_per_group = ceil_div(filters, max(lanes<T>, filters_bytes / piece_bytes));
        set_filters = round_up(ceil_div(filters, sets_per_group), lanes<T>);
        sets_per_group = ceil_div(filters, set_filters), sets = sets_per_group * conv.groups;
        const int64_t overlap = min(pool.window_h, pool.P);  // rows of windows that may share a row of pixels
        rows_listed = min(conv.P, ceil_div(least_pixels, conv.Q));
        capacity = rows_listed * conv.K * min(conv.Q, pool.Q * overlap) + list_slack;
        const int64_t row_bytes = width * conv.C * int64_t(sizeof(T));
        block_rows = max(1, min(block_bytes / row_bytes, conv.H * conv.N / least_items));
        blocks = ceil_div(conv.H, block_rows);
        block_rows = ceil_div(conv.H, blocks);
        // The last vector of a slab reads beyond it.
        block_size = block_rows * width * conv.C + lanes<T>;
        const int64_t pixel_rows = (block_rows + (conv.R - 1) * conv.dilation_h) / conv.stride_h + 1;
        const int64_t reach = (pool.window_h - 1) * pool.dilation_h;
        dy_rows = min(pool.P, (pixel_rows + reach) / pool.stride_h + 1);
    }
    // The offset of the first filter's piece; the next filter's is piece_size further.
    T* piece(T* w, const Conv2d& conv, int64_t slab, int64_t piece) const {
        return w + (slab * slabs.pieces + piece) * conv.K * piece_size;
    }
    int64_t first_filter(int64_t set) const {
        return set / sets_per_group * filters + set % sets_per_group * set_filters;
    }
    int64_t count_filters(int64_t set) const { return min(set_filters, filters - set % sets_per_group * set_filters); }
};

template <class T>
struct DgradWorkspace {
    T* w;               // packed filters, [slab][piece][k]: a piece of all filters is one run of memory
    int32_t* k_offset;  // offset of filter k of a set
    Cover** columns;    // [Q + 1]: the first window over each column of pixels
    // Of thread 0:
    T* filter;  // one packed filter
    T* block;
    T* dy;  // the rows of dy that an item reads, as NHWC
    T* g;   // entries of a few rows of pixels
    int32_t* offset;
    int64_t* start;  // [row][Q][set], and one more: start of a pixel's list per set
    size_t per_thread, bytes;

    DgradWorkspace(const Conv2dProblem& problem, const DgradPlan<T>& plan, void* start_) {
        const Conv2d& conv = problem.conv;
        const Pool2d& pool = problem.pool;
        Carver carver(start_);
        w = carver.take<T>(plan.slabs.outer * plan.slabs.rows * plan.slabs.pieces * conv.K * plan.piece_size);
        k_offset = carver.take<int32_t>(plan.set_filters);
        columns = carver.take<Cover*>(conv.Q + 1);
        Cover* const covers = carver.take<Cover>(conv.Q * pool.window_w);
        if (columns) columns[0] = covers;
        const size_t shared = carver.used();
        filter = carver.take<T>(plan.slabs.filter_size);
        block = carver.take<T>(plan.block_size);
        dy = carver.take<T>(plan.dy_rows * pool.Q * conv.K);
        g = carver.take<T>(plan.capacity);
        offset = carver.take<int32_t>(plan.capacity);
        start = carver.take<int64_t>(plan.rows_listed * conv.Q * plan.sets + 1);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
    // The same with the thread's own parts.
    DgradWorkspace of(int thread) const {
        DgradWorkspace mine = *this;
        const auto move = [&](auto*& array) { array = of_thread(array, thread, per_thread); };
        move(mine.filter), move(mine.block), move(mine.dy), move(mine.g), move(mine.offset), move(mine.start);
        return mine;
    }
};

// dy of one image as NHWC: pixel (p, q) is at data + p * row + q * column.
template <class T>
struct Pixels {
    const T* data;
    int64_t row, column;
};

// A window over a pixel: its gradients and codes, one per filter, and the code that selects this pixel.
template <class T>
struct Source {
    const T* dy;
    const uint8_t* code;
    int match;
};

// Appends an entry for each filter with a live gradient at this pixel, which is the sum over the sources.
// matches(codes, match) says which codes select the pixel.
template <class T, class Matches>
void list_filters(int64_t filters, const Source<T>* sources, const Source<T>* end, const Matches& matches,
                  const int32_t* k_offset, int32_t* offsets, T* values, int64_t& count) {
    int64_t k = 0;
    if constexpr (sizeof(T) == 4) {
        constexpr int W = lanes<T>;
        for (; k + W <= filters; k += W) {
            Vec<T> g = {};
            for (const Source<T>* source = sources; source < end; ++source)
                g += select(matches(load_bytes<T>(source->code + k), source->match), load(source->dy + k), Vec<T>{});
            append(g != 0, load(k_offset + k), g, offsets, values, count);
        }
    }
    for (; k < filters; ++k) {
        T g = 0;
        for (const Source<T>* source = sources; source < end; ++source)
            g += select(matches(int(source->code[k]), source->match), source->dy[k], T(0));
        append(g != 0, k_offset[k], g, offsets, values, count);
    }
}

// The same for one source without codes.
template <class T>
void list_filters(int64_t filters, const T* dy, const int32_t* k_offset, int32_t* offsets, T* values, int64_t& count) {
    int64_t k = 0;
    if constexpr (sizeof(T) == 4)
        for (; k + lanes<T> <= filters; k += lanes<T>)
            append(load(dy + k) != 0, load(k_offset + k), load(dy + k), offsets, values, count);
    for (; k < filters; ++k) append(dy[k] != 0, k_offset[k], dy[k], offsets, values, count);
}

// Appends the live gradients of row p of pixels behind `count` entries, and their lists' starts. code: of the image.
template <class T>
void list_pixels(const Conv2dProblem& problem, const DgradPlan<T>& plan, const DgradWorkspace<T>& space,
                 const Pixels<T>& dy, const uint8_t* code, int64_t p, int64_t* start, int64_t& count) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    Cover rows[max_positions];
    const Cover* const end_rows =
        list_covers(p, pool.window_h, pool.stride_h, pool.pad_h, pool.dilation_h, pool.P, rows);
    Source<T> sources[max_positions];
    for (int64_t q = 0; q < conv.Q; ++q) {
        for (int64_t set = 0; set < plan.sets; ++set) {
            const int64_t k = plan.first_filter(set), filters = plan.count_filters(set);
            *start++ = count;
            if (problem.epilogue.activation == Activation::none) {
                list_filters(filters, dy.data + p * dy.row + q * dy.column + k, space.k_offset, space.offset, space.g,
                             count);
            } else if (!problem.epilogue.pooled) {
                sources[0] = {dy.data + p * dy.row + q * dy.column + k,
                              code + (p * ceil_div(conv.Q, 8) + q / 8) * conv.K + k, 1 << (q % 8)};
                list_filters(
                    filters, sources, sources + 1, [](auto codes, int bit) { return (codes & bit) != 0; },
                    space.k_offset, space.offset, space.g, count);
            } else {
                Source<T>* end = sources;
                for (const Cover* row = rows; row < end_rows; ++row)
                    for (const Cover* column = space.columns[q]; column < space.columns[q + 1]; ++column)
                        *end++ = {dy.data + row->window * dy.row + column->window * dy.column + k,
                                  code + (row->window * pool.Q + column->window) * conv.K + k,
                                  int(row->position * pool.window_w + column->position)};
                list_filters(
                    filters, sources, end, [](auto codes, int position) { return codes == position; }, space.k_offset,
                    space.offset, space.g, count);
            }
        }
    }
    *start = count;
}

// Rows of dx, padding included, that an item computes.
template <class T>
struct Block {
    T* data;
    Range rows;

    // The kernel rows through which row p of pixels reaches into these rows.
    Range kernel_rows(const Conv2d& conv, int64_t p) const {
        return valid_positions(p * conv.stride_h - rows.first, conv.dilation_h, conv.R, rows.last - rows.first);
    }
};

// Adds the listed pixel rows' products with one piece of the slabs, for kernel rows `outer`. first_p: the first listed
// row.
template <class T>
void add_piece(const Conv2dProblem& problem, const DgradPlan<T>& plan, const DgradWorkspace<T>& space,
               const Block<T>& block, Range pixel_rows, int64_t outer, Range slab_rows, int64_t piece) {
    const Conv2d& conv = problem.conv;
    const Slabs<T>& slabs = plan.slabs;
    for (int64_t set = 0; set < plan.sets; ++set)
        for (int64_t p = pixel_rows.first; p < pixel_rows.last; ++p) {
            const Range inside = block.kernel_rows(conv, p);
            Range rows = slab_rows;
            if (slabs.whole_rows) rows = {max(rows.first, inside.first), min(rows.last, inside.last)};
            else if (outer < inside.first || outer >= inside.last) continue;
            if (rows.first >= rows.last) continue;
            const int64_t r = slabs.whole_rows ? rows.first : outer;
            const int64_t* start = space.start + (p - pixel_rows.first) * conv.Q * plan.sets + set;
            T* to = block.data + (p * conv.stride_h + r * conv.dilation_h - block.rows.first) * plan.width * conv.C +
                    (slabs.whole_rows ? 0 : rows.first * slabs.row_step) + piece * plan.piece_size;
            accumulate_for<T>(rows.last - rows.first, piece_vectors(slabs, piece))(
                {space.offset, space.g, start, start + 1, plan.sets, conv.Q},
                plan.piece(space.w, conv, outer * slabs.rows + rows.first, piece) +
                    plan.first_filter(set) * plan.piece_size,
                slabs.pieces * conv.K * plan.piece_size, to + set / plan.sets_per_group * plan.channels, slabs.row_step,
                conv.stride_w * conv.C, false);
        }
}

// Returns dy of image n as NHWC, for pixel rows first_p to last_p.
template <class T>
Pixels<T> stage_dy(const Conv2dProblem& problem, const Tensor& dy, const DgradWorkspace<T>& space, int64_t n,
                   int64_t first_p, int64_t last_p) {
    const Pool2d& pool = problem.pool;
    if (dy.stride[1] == 1 && element_bytes(dy.dtype) == sizeof(T))
        return {static_cast<const T*>(dy.data) + n * dy.stride[0], dy.stride[2], dy.stride[3]};
    const int64_t K = problem.conv.K, reach = (pool.window_h - 1) * pool.dilation_h;
    const int64_t first = max(0, ceil_div(max(0, first_p + pool.pad_h - reach), pool.stride_h));
    const int64_t last = min(pool.P, (last_p - 1 + pool.pad_h) / pool.stride_h + 1);
    with_elements<T>(dy, [&](const auto* data) {
        for (int64_t p = first; p < last; ++p)
            copy2d(pool.Q, K, data + n * dy.stride[0] + p * dy.stride[2], dy.stride[3], dy.stride[1],
                   space.dy + (p - first) * pool.Q * K, K, 1);
    });
    return {space.dy - first * pool.Q * K, pool.Q * K, K};
}

// Computes one item: rows first_h to last_h of dx of image n.
template <class T>
void compute_block(const Conv2dProblem& problem, const DgradPlan<T>& plan, const DgradArgs& args,
                   const DgradWorkspace<T>& space, int64_t n, int64_t first_h, int64_t last_h) {
    const Conv2d& conv = problem.conv;
    const Slabs<T>& slabs = plan.slabs;
    const int64_t first = first_h + conv.pad_h,
                  last = last_h + conv.pad_h;  // in coordinates that include the padding above
    const Block<T> block = {space.block, {first, last}};
    std::memset(block.data, 0, size_t(plan.block_size) * sizeof(T));
    const int64_t reach = (conv.R - 1) * conv.dilation_h;
    const int64_t first_p = ceil_div(max(0, first - reach), conv.stride_h);
    const int64_t last_p = min(conv.P, (last - 1) / conv.stride_h + 1);
    const Pixels<T> dy = stage_dy(problem, args.dy, space, n, first_p, last_p);
    const int64_t code_size =
        problem.epilogue.pooled ? problem.pool.P * problem.pool.Q * conv.K : conv.P * ceil_div(conv.Q, 8) * conv.K;
    const uint8_t* code = static_cast<const uint8_t*>(args.code.data);
    for (int64_t p = first_p; p < last_p; p += plan.rows_listed) {
        const Range pixel_rows = {p, min(last_p, p + plan.rows_listed)};
        int64_t count = 0;
        for (int64_t row = p; row < pixel_rows.last; ++row)
            list_pixels(problem, plan, space, dy, code ? code + n * code_size : nullptr, row,
                        space.start + (row - p) * conv.Q * plan.sets, count);
        for (int64_t outer = 0; outer < slabs.outer; ++outer)
            for (int64_t row = 0; row < slabs.rows; row += slabs.rows_at_once)
                for (int64_t piece = 0; piece < slabs.pieces; ++piece)
                    add_piece(problem, plan, space, block, pixel_rows, outer,
                              {row, min(slabs.rows, row + slabs.rows_at_once)}, piece);
    }
    with_elements<T>(args.dx, [&](auto* data) {
        for (int64_t h = first_h; h < last_h; ++h)
            copy2d(conv.W, conv.C, block.data + ((h - first_h) * plan.width + conv.pad_w) * conv.C, conv.C, 1,
                   data + n * args.dx.stride[0] + h * args.dx.stride[2], args.dx.stride[3], args.dx.stride[1]);
    });
}

// Packs filter k into the pieces of all filters. `filter` has room for it and zeros in its gaps.
template <class T>
void pack_pieces(const DgradPlan<T>& plan, const Conv2d& conv, const Tensor& w, int64_t k, T* filter, T* pieces) {
    const Slabs<T>& slabs = plan.slabs;
    pack_filter(w, k, filter, slabs.r_step, slabs.s_step);
    for (int64_t slab = 0; slab < slabs.outer * slabs.rows; ++slab)
        for (int64_t piece = 0; piece < slabs.pieces; ++piece)
            copy_row(piece_vectors(slabs, piece) * lanes<T>,
                     filter + slab * slabs.vectors * lanes<T> + piece * plan.piece_size,
                     plan.piece(pieces, conv, slab, piece) + k * plan.piece_size);
}

template <class T>
void run(const Conv2dProblem& problem, const DgradArgs& args, const Launch& launch) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    const DgradPlan<T> plan(problem);
    const DgradWorkspace<T> space(problem, plan, launch.workspace);
    for (int thread = 0; thread < problem.threads; ++thread)
        std::memset(space.of(thread).filter, 0, size_t(plan.slabs.filter_size) * sizeof(T));
    parallel_for(problem.threads, conv.K,
                 [&](int64_t k, int thread) { pack_pieces(plan, conv, args.w, k, space.of(thread).filter, space.w); });
    for (int64_t k = 0; k < plan.set_filters; ++k) space.k_offset[k] = int32_t(k * plan.piece_size);
    for (int64_t q = 0; q < conv.Q; ++q)
        space.columns[q + 1] =
            list_covers(q, pool.window_w, pool.stride_w, pool.pad_w, pool.dilation_w, pool.Q, space.columns[q]);

    parallel_for(problem.threads, conv.N * plan.blocks, [&](int64_t item, int thread) {
        const int64_t first_h = item % plan.blocks * plan.block_rows;
        compute_block(problem, plan, args, space.of(thread), item / plan.blocks, first_h,
                      min(conv.H, first_h + plan.block_rows));
    });
}

constexpr const char* condition = "one group, or groups of four channels or more, and rows that 32-bit offsets reach";

// Offsets are 32-bit, and one row of pixels and its lists must have a sane size.
bool takes(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    if (conv.N == 0 || conv.C == 0 || conv.H == 0 || conv.W == 0) return false;
    if (conv.K == 0 || pool.P == 0 || pool.Q == 0) return false;
    if (conv.groups > 1 && conv.C / conv.groups < least_live_channels) return false;
    constexpr double limit = 1 << 28;
    const double width = double(conv.W) + double(conv.pad_w) + double(conv.Q) * double(conv.stride_w) +
                         double(conv.S) * double(conv.dilation_w);
    const double lists = double(conv.P) * double(conv.K) * double(pool.Q) * double(pool.window_h);
    return double(conv.dilation_h) * width * double(conv.C) < limit && lists < limit &&
           double(conv.K) * double(conv.C + 16) * double(conv.R) * double(conv.S) < limit;
}

template <class T>
size_t workspace(const Conv2dProblem& problem) {
    return DgradWorkspace<T>(problem, DgradPlan<T>(problem), nullptr).bytes;
}

}  // namespace

extern const Implementation<DgradArgs> live_dgrad;
const Implementation<DgradArgs> live_dgrad = {
    "live", condition, takes, by_type<workspace<float>, workspace<double>>, nullptr, by_type<run<float>, run<double>>};

}  // namespace fastconv::cpu::FASTCONV_ISA
