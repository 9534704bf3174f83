// wgrad from the live gradients (live.h), for sparse gradients: the gradients of weight and bias.
//
//   dw[k][r, s, c] = sum over live (p, q, g) of channel k: g * x[p * stride + r, q * stride + s, c]
//
// Images are taken a few at a time, as many as L3 holds, in two steps over all threads:
//   1. Pack x in blocks of a few channels. A block has all these images as NHWC, one below the other, with the padding
//      in place.
//   2. A work item has some filters and some blocks. For each tile (some rows of dy, or a part of one) it lists the
//      filters' live gradients and the offsets of their inputs, and adds them up block by block. What a tile reads of
//      one block stays in L1 over all filters and kernel positions, and every multiply-add reads x from there. Small
//      images have short lists, which use a tile of x too little. There all items share lists made in a step before,
//      and an item has all filters for some blocks.
//
// Every element of dw has one owner, which takes images and tiles in order. No partial sums need merging, and the bits
// are the same for any number of threads.
#include "isa_kernels.h"
#include "parallel.h"
#include "pool_window.h"
#include "window_lists.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t images_bytes = 1 << 20;  // packed input of the images taken at a time
constexpr int64_t tile_bytes = 24 << 10;   // of a block that a tile reads: stays in L1
constexpr int64_t least_entries = 24;      // of a full list, so that adding to dw costs little
constexpr int64_t bytes_per_vector = 3;    // of a tile of x per multiply-add of one vector, at most
constexpr int64_t least_items = 8;
constexpr int64_t shared_bytes = 512 << 10;  // of the lists that all items share
// Merging entries costs once per list and pays in each part that uses the list. It needs at least least_parts parts,
// and at most most_positions positions per window.
constexpr int64_t least_parts = 4, most_positions = 16;

template <class T>
struct WgradPlan {
    int64_t height, width;                    // of a packed image
    int64_t filters;                          // per group
    int64_t channels;                         // per block; zeros fill the last block
    int64_t blocks_per_group;                 // blocks of channels
    Slabs<T> slabs;                           // of one block
    int64_t image_size;                       // elements of an image in a block
    int64_t images;                           // packed at a time
    int64_t front_slack, block_size;          // elements before a block's first image, and of the block
    int64_t tile_rows, tile_columns;          // of dy per tile; rows may be those of several images
    int64_t tiles_across, tiles;              // tiles: at most, of the images packed at a time
    int64_t capacity;                         // entries of a list
    int64_t plane_lines, plane_width;         // lines of a window in a tile's Plane; width of the plane
    int64_t plane_size;                       // 0: windows do not overlap, and there is no plane
    int64_t parts;                            // parts of a block of a filter, each accumulated in registers
    bool shared_lists;                        // made first, once for all items
    int64_t filters_listed;                   // at a time
    int64_t filters_at_once, ranges, shares;  // an item has filters_at_once filters and a share of their blocks

    static int64_t packed_width(const Conv2d& conv) {
        return (conv.Q - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1;
    }
    // Blocks as small as still fills the accumulators: whole vectors, times the kernel's positions.
    static int64_t block_channels(const Conv2d& conv) {
        const int64_t least = lanes<T> * max(1, max_accumulators / (conv.R * conv.S));
        return ceil_div(conv.C / conv.groups, max(1, conv.C / conv.groups / least));
    }

    explicit WgradPlan(const Conv2dProblem& problem)
        : height((problem.conv.P - 1) * problem.conv.stride_h + (problem.conv.R - 1) * problem.conv.dilation_h + 1),
          width(packed_width(problem.conv)),
          filters(problem.conv.K / problem.conv.groups),
          channels(block_channels(problem.conv)),
          blocks_per_group(ceil_div(problem.conv.C / problem.conv.groups, channels)),
          slabs(problem.conv, width, channels, channels) {
        const Conv2d& conv = problem.conv;
        const Pool2d& pool = problem.pool;
        image_size = height * width * channels;
        const int64_t image_bytes = image_size * blocks_per_group * conv.groups * int64_t(sizeof(T));
        images = max(1, min(conv.N, images_bytes / image_bytes));
        images = ceil_div(conv.N, ceil_div(conv.N, images));
        // A code not written by a forward pass may point beside its row, and the last vector of a slab reads beyond it.
        // Slack keeps both inside the buffer.
        front_slack = round_up(pool.pad_w * conv.stride_w * channels, 16);
        const int64_t back_slack =
            (pool.window_w * pool.dilation_w + pool.stride_w) * conv.stride_w * channels + lanes<T>;
        block_size = round_up(front_slack + images * image_size + back_slack, 16);

        const int64_t row_bytes = width * channels * int64_t(sizeof(T));
        const int64_t window_lines = (pool.window_h - 1) * pool.dilation_h * conv.stride_h + 1;
        const int64_t first_bytes = (window_lines + (slabs.rows_at_once - 1) * conv.dilation_h) * row_bytes;
        const int64_t further_bytes = pool.stride_h * conv.stride_h * row_bytes;
        tile_rows = max(ceil_div(least_entries, pool.Q), (tile_bytes - first_bytes) / further_bytes + 1);
        tile_rows = min(tile_rows, images * pool.P);
        const int64_t bytes = first_bytes + (tile_rows - 1) * further_bytes;
        tiles_across = max(1, min(ceil_div(bytes, tile_bytes), tile_rows * pool.Q / least_entries));
        tile_columns = ceil_div(pool.Q, tiles_across), tiles_across = ceil_div(pool.Q, tile_columns);
        capacity = tile_rows * tile_columns + list_slack;

        parts = slabs.outer * slabs.row_groups * slabs.pieces;
        plane_lines = (pool.window_h - 1) * pool.dilation_h + 1;
        plane_width = (tile_columns - 1) * pool.stride_w + (pool.window_w - 1) * pool.dilation_w + 1;
        const bool overlap = plane_lines > pool.stride_h || plane_width > tile_columns * pool.stride_w;
        const int64_t row_positions = max(plane_lines, pool.stride_h) * plane_width;
        const bool merge =
            overlap && parts * blocks_per_group >= least_parts && row_positions <= most_positions * tile_columns;
        plane_size = merge ? round_up(tile_rows * row_positions, lanes<T>) : 0;
        tiles = ceil_div(images * pool.P, tile_rows) * tiles_across;
        filters_listed = max(8, ceil_div(conv.K, least_items));  // 8: transposes take 8 at a time
        shared_lists =
            blocks_per_group > 1 && tiles * conv.K * capacity * int64_t(sizeof(T) + sizeof(int32_t)) <= shared_bytes;
        if (shared_lists) {  // a tile of x is loaded once for as many filters as possible
            shares = min(blocks_per_group, least_items);
            filters_at_once = ceil_div(conv.K, ceil_div(least_items, shares));
        } else {  // as many filters as make their additions outweigh loading the tile
            const int64_t tile_vectors = tile_rows * tile_columns * slabs.filter_size / lanes<T>;
            filters_listed = max(filters_listed, ceil_div(bytes, bytes_per_vector * tile_vectors));
            filters_at_once = filters_listed;
            shares = min(blocks_per_group, ceil_div(least_items, ceil_div(conv.K, filters_at_once)));
        }
        ranges = ceil_div(conv.K, filters_at_once);
    }
};

// The lists of one tile: list i, of filter first_k + i, has the entries first[i] to last[i].
template <class T>
struct TileLists {
    int32_t* offset;
    T* g;
    int64_t *first, *last;
    int64_t first_k;
};

template <class T>
struct WgradWorkspace {
    T* dw;         // packed filters: [block of a group][k]
    T* x;          // packed images: [group][block]
    double* bias;  // [k]: sums of live gradients
    // Lists of `capacity` entries: shared [tile][k], or of thread 0 [k of an item].
    TileLists<T> lists;
    // Of thread 0, for one tile and the filters listed at a time:
    T* dy;  // [k][rows][columns], as are the codes
    uint8_t* code;
    int32_t *place, *first_row, *last_row;  // [rows][columns], see Windows
    T* plane;                               // see Plane
    int32_t* plane_offset;
    size_t per_thread, bytes;

    WgradWorkspace(const Conv2dProblem& problem, const WgradPlan<T>& plan, void* start) {
        const int64_t K = plan.filters_listed, windows = plan.tile_rows * plan.tile_columns;
        Carver carver(start);
        const auto take_lists = [&](int64_t count) {
            lists.g = carver.take<T>(count * plan.capacity);
            lists.offset = carver.take<int32_t>(count * plan.capacity);
            lists.first = carver.take<int64_t>(count), lists.last = carver.take<int64_t>(count);
            lists.first_k = 0;
        };
        dw = carver.take<T>(plan.blocks_per_group * problem.conv.K * plan.slabs.filter_size);
        x = carver.take<T>(problem.conv.groups * plan.blocks_per_group * plan.block_size);
        bias = carver.take<double>(problem.conv.K);
        if (plan.shared_lists) take_lists(plan.tiles * problem.conv.K);
        const size_t shared = carver.used();
        if (!plan.shared_lists) take_lists(K);
        dy = carver.take<T>(K * windows);
        code = carver.take<uint8_t>(K * windows);
        place = carver.take<int32_t>(windows);
        first_row = carver.take<int32_t>(windows), last_row = carver.take<int32_t>(windows);
        plane = carver.take<T>(plan.plane_size + 1);
        plane_offset = carver.take<int32_t>(plan.plane_size);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
    // The same with the thread's own parts.
    WgradWorkspace of(int thread) const {
        WgradWorkspace mine = *this;
        const auto move = [&](auto*& array) { array = of_thread(array, thread, per_thread); };
        move(mine.dy), move(mine.code), move(mine.place), move(mine.first_row), move(mine.last_row);
        move(mine.plane), move(mine.plane_offset);
        return mine;
    }
    // A tile's lists for filters from first_k on, where each thread has its own.
    TileLists<T> lists_of(const WgradPlan<T>& plan, int64_t K, int64_t tile, int thread, int64_t first_k) const {
        if (plan.shared_lists)
            return {lists.offset + tile * K * plan.capacity, lists.g + tile * K * plan.capacity, lists.first + tile * K,
                    lists.last + tile * K, 0};
        const auto mine = [&](auto* array) { return of_thread(array, thread, per_thread); };
        return {mine(lists.offset), mine(lists.g), mine(lists.first), mine(lists.last), first_k};
    }
};

// The part of one thread: these blocks of these filters.
struct WgradItem {
    int64_t first_k, filters, first_block, last_block;
};

// Copies the codes of row p from column q on for `count` filters from first_k on, filter k to out + k * step. They are
// those of a pool; ReLU alone counts as windows of one position.
inline void stage_codes(const Conv2dProblem& problem, const uint8_t* code, int64_t n, int64_t p, int64_t first_q,
                        int64_t columns, int64_t first_k, int64_t count, uint8_t* out, int64_t step) {
    const int64_t K = problem.conv.K, Q = problem.pool.Q, P = problem.pool.P;
    if (problem.epilogue.pooled) {
        copy2d(columns, count, code + ((n * P + p) * Q + first_q) * K + first_k, K, 1, out, 1, step);
    } else if (problem.epilogue.activation == Activation::relu) {
        const uint8_t* row = code + (n * P + p) * ceil_div(Q, 8) * K + first_k;
        for (int64_t k = 0; k < count; ++k)
            for (int64_t i = 0, q = first_q; i < columns; ++i, ++q)
                out[k * step + i] = row[q / 8 * K + k] >> (q % 8) & 1 ? 0 : uint8_t(dead);
    } else {
        for (int64_t k = 0; k < count; ++k) std::memset(out + k * step, 0, size_t(columns));
    }
}

// Lists the live gradients of one tile of `images` images from first_image on, for some filters, and adds them to bias
// (may be null).
template <class T>
void list_tile(const Conv2dProblem& problem, const WgradPlan<T>& plan, const WgradArgs& args,
               const WgradWorkspace<T>& space, int64_t first_image, int64_t images, int64_t tile, int64_t first_k,
               int64_t filters, const TileLists<T>& lists, double* bias) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    const int64_t first_q = tile % plan.tiles_across * plan.tile_columns;
    const int64_t columns = min(plan.tile_columns, pool.Q - first_q);
    const int64_t first_row = tile / plan.tiles_across * plan.tile_rows;
    const int64_t rows = min(plan.tile_rows, images * pool.P - first_row);
    const int64_t line = conv.stride_h * plan.width * plan.channels, column = conv.stride_w * plan.channels;
    const T* dy = space.dy;
    int64_t dy_k = rows * columns, plane_line = 0;
    for (int64_t row = 0; row < rows; ++row) {
        const int64_t image = (first_row + row) / pool.P, pp = (first_row + row) % pool.P, at = row * columns;
        const int64_t dy_row = (first_image + image) * args.dy.stride[0] + first_k * args.dy.stride[1] +
                               pp * args.dy.stride[2] + first_q * args.dy.stride[3];
        if (rows == 1 && args.dy.stride[3] == 1 && element_bytes(args.dy.dtype) == sizeof(T))
            dy = static_cast<const T*>(args.dy.data) + dy_row, dy_k = args.dy.stride[1];
        else
            with_elements<T>(args.dy, [&](const auto* data) {
                copy2d(columns, filters, data + dy_row, args.dy.stride[3], args.dy.stride[1], space.dy + at, 1,
                       rows * columns);
            });
        stage_codes(problem, static_cast<const uint8_t*>(args.code.data), first_image + image, pp, first_q, columns,
                    first_k, filters, space.code + at, rows * columns);
        const int64_t p = pp * pool.stride_h - pool.pad_h;
        const Range inside = valid_positions(p, pool.dilation_h, pool.window_h, conv.P);
        const int64_t start = image * plan.image_size + p * line + (first_q * pool.stride_w - pool.pad_w) * column;
        int64_t place = start, step = pool.stride_w * column;
        if (plan.plane_size) {
            if (row) plane_line += pp ? pool.stride_h : plan.plane_lines;
            int32_t* offset = space.plane_offset + plane_line * plan.plane_width;
            for (int64_t i = 0; i < plan.plane_lines; ++i)
                for (int64_t j = 0; j < plan.plane_width; ++j) *offset++ = int32_t(start + i * line + j * column);
            place = plane_line * plan.plane_width, step = pool.stride_w;
        }
        for (int64_t q = 0; q < columns; ++q) {
            space.place[at + q] = int32_t(place + q * step);
            space.first_row[at + q] = int32_t(inside.first), space.last_row[at + q] = int32_t(inside.last);
        }
    }
    const bool merge = plan.plane_size > 0;
    const Windows windows = {rows * columns,
                             space.place,
                             space.first_row,
                             space.last_row,
                             int32_t(pool.dilation_h * (merge ? plan.plane_width : line)),
                             int32_t(pool.dilation_w * (merge ? 1 : column)),
                             int(pool.window_w)};
    const Plane<T> plane = {round_up((plane_line + plan.plane_lines) * plan.plane_width, lanes<T>), space.plane_offset,
                            space.plane};
    for (int64_t k = 0; k < filters; ++k) {
        const int64_t list = first_k + k - lists.first_k;
        lists.first[list] = lists.last[list] = list * plan.capacity;
        const T* const g = dy + k * dy_k;
        const uint8_t* const code = space.code + k * rows * columns;
        const double sum = merge ? list_merged(windows, plane, g, code, lists.offset, lists.g, lists.last[list])
                                 : list_windows(windows, g, code, lists.offset, lists.g, lists.last[list]);
        if (bias) bias[first_k + k] += sum;
    }
}

// Adds the lists of one tile to an item's part of dw; the first tile writes it.
template <class T>
void add_tile(const WgradPlan<T>& plan, const Conv2d& conv, const WgradWorkspace<T>& space, const WgradItem& item,
              const TileLists<T>& lists, bool first_tile) {
    const Slabs<T>& slabs = plan.slabs;
    constexpr int W = lanes<T>;
    for (int64_t part = item.first_block * plan.parts; part < item.last_block * plan.parts; ++part) {
        const int64_t block = part / plan.parts, piece = part % slabs.pieces;
        const int64_t row = part / slabs.pieces % slabs.row_groups * slabs.rows_at_once;
        const int64_t outer = part / slabs.pieces / slabs.row_groups % slabs.outer;
        const auto add = accumulate_for<T>(min(slabs.rows_at_once, slabs.rows - row), piece_vectors(slabs, piece));
        const T* from = space.x + block * plan.block_size + plan.front_slack + outer * slabs.outer_step +
                        row * slabs.row_step + piece * slabs.vectors_at_once * W;
        T* to = space.dw + (block * conv.K + item.first_k) * slabs.filter_size +
                ((outer * slabs.rows + row) * slabs.vectors + piece * slabs.vectors_at_once) * W;
        for (int64_t k = 0, same_group; k < item.filters; k += same_group) {
            const int64_t group = (item.first_k + k) / plan.filters, list = item.first_k + k - lists.first_k;
            same_group = min(item.filters, (group + 1) * plan.filters - item.first_k) - k;
            add({lists.offset, lists.g, lists.first + list, lists.last + list, 1, same_group},
                from + group * plan.blocks_per_group * plan.block_size, slabs.row_step, to + k * slabs.filter_size,
                slabs.vectors * W, slabs.filter_size, first_tile);
        }
    }
}

// Packs row h of one image for all blocks. The first and the last row also clear the slack before and after the images.
template <class T>
void pack_row(const Conv2d& conv, const WgradPlan<T>& plan, const Tensor& x, int64_t n, int64_t image, int64_t h,
              T* out) {
    const int64_t group_channels = conv.C / conv.groups;
    for (int64_t block = 0; block < conv.groups * plan.blocks_per_group; ++block, out += plan.block_size) {
        const int64_t first = block % plan.blocks_per_group * plan.channels;
        const int64_t count = min(plan.channels, group_channels - first);
        T* row = out + plan.front_slack + image * plan.image_size + h * plan.width * plan.channels;
        T* end = row + plan.width * plan.channels;
        if (image == 0 && h == 0) std::memset(out, 0, size_t(plan.front_slack) * sizeof(T));
        if (image == plan.images - 1 && h == plan.height - 1)
            std::memset(end, 0, size_t(out + plan.block_size - end) * sizeof(T));
        pack_rows(channels_of(x, block / plan.blocks_per_group * group_channels + first, count), n, h - conv.pad_h, 1,
                  -conv.pad_w, plan.width, plan.channels, row);
    }
}

// Writes an item's part to dw.
template <class T>
void write_item(const WgradPlan<T>& plan, const Conv2d& conv, const T* packed, const WgradItem& item,
                const Tensor& dw) {
    for (int64_t k = item.first_k; k < item.first_k + item.filters; ++k)
        for (int64_t block = item.first_block; block < item.last_block; ++block) {
            const int64_t first_c = block * plan.channels;
            const int64_t count = min(plan.channels, conv.C / conv.groups - first_c);
            unpack_filter<T>(packed + (block * conv.K + k) * plan.slabs.filter_size, plan.slabs.r_step,
                             plan.slabs.s_step, channels_of(dw, first_c, count), k);
        }
}

template <class T>
void run(const Conv2dProblem& problem, const WgradArgs& args, const Launch& launch) {
    const Conv2d& conv = problem.conv;
    const WgradPlan<T> plan(problem);
    const WgradWorkspace<T> space(problem, plan, launch.workspace);
    // Without dw there are no blocks to share, just lists.
    const int64_t shares = args.dw.data ? plan.shares : 1, blocks = args.dw.data ? plan.blocks_per_group : 0;
    for (int64_t k = 0; k < conv.K; ++k) space.bias[k] = 0;
    for (int thread = 0; thread < problem.threads; ++thread)
        std::memset(space.of(thread).plane, 0, size_t(plan.plane_size + 1) * sizeof(T));
    for (int64_t first = 0; first < conv.N; first += plan.images) {
        const int64_t images = min(plan.images, conv.N - first);
        if (args.dw.data)
            parallel_for(problem.threads, images * plan.height, [&](int64_t row, int) {
                const int64_t image = row / plan.height;
                pack_row(conv, plan, args.x, first + image, image, row % plan.height, space.x);
            });
        const int64_t tiles = ceil_div(images * problem.pool.P, plan.tile_rows) * plan.tiles_across;
        const auto list = [&](int64_t tile, int64_t first_k, int64_t filters, int thread, double* bias) {
            const TileLists<T> lists = space.lists_of(plan, conv.K, tile, thread, first_k);
            list_tile(problem, plan, args, space.of(thread), first, images, tile, first_k, filters, lists, bias);
            return lists;
        };
        if (plan.shared_lists)
            parallel_for(problem.threads, ceil_div(conv.K, plan.filters_listed), [&](int64_t number, int thread) {
                const int64_t first_k = number * plan.filters_listed;
                for (int64_t tile = 0; tile < tiles; ++tile)
                    list(tile, first_k, min(plan.filters_listed, conv.K - first_k), thread, space.bias);
            });
        parallel_for(problem.threads, plan.ranges * shares, [&](int64_t number, int thread) {
            const int64_t share = number % shares, first_k = number / shares * plan.filters_at_once;
            const WgradItem item = {first_k, min(plan.filters_at_once, conv.K - first_k), blocks * share / shares,
                                    blocks * (share + 1) / shares};
            double* bias = share ? nullptr : space.bias;  // one share adds it up
            for (int64_t tile = 0; tile < tiles; ++tile)
                add_tile(plan, conv, space, item,
                         plan.shared_lists ? space.lists_of(plan, conv.K, tile, thread, first_k)
                                           : list(tile, first_k, item.filters, thread, bias),
                         first == 0 && tile == 0);
            if (first + images == conv.N && blocks) write_item(plan, conv, space.dw, item, args.dw);
        });
    }
    if (args.dbias.data)
        for (int64_t k = 0; k < conv.K; ++k) set_value<T>(args.dbias, k * args.dbias.stride[0], T(space.bias[k]));
}

constexpr const char* condition = "one group, or groups of four channels or more, and images that 32-bit offsets reach";

// Offsets are 32-bit, and one packed image must have a sane size.
bool takes(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    if (conv.N == 0 || conv.C == 0 || conv.K == 0 || pool.P == 0 || pool.Q == 0) return false;
    if (conv.groups > 1 && conv.C / conv.groups < least_live_channels) return false;
    constexpr double limit = 1 << 28;
    const double column = double(conv.stride_w) * double(conv.C);
    const double width = double(conv.Q) * column + double(conv.S) * double(conv.dilation_w) * double(conv.C);
    const double height = double(conv.P) * double(conv.stride_h) + double(conv.R) * double(conv.dilation_h);
    const double beside = (double(pool.window_w) * double(pool.dilation_w) + double(pool.stride_w)) * column;
    const double below = double(pool.window_h) * double(pool.dilation_h) * double(conv.stride_h) * width;
    return height * width + beside + below < limit &&
           double(conv.K) * double(conv.C) * double(conv.R) * double(conv.S) < limit;
}

template <class T>
size_t workspace(const Conv2dProblem& problem) {
    return WgradWorkspace<T>(problem, WgradPlan<T>(problem), nullptr).bytes;
}

}  // namespace

extern const Implementation<WgradArgs> live_wgrad;
const Implementation<WgradArgs> live_wgrad = {
    "live", condition, takes, by_type<workspace<float>, workspace<double>>, nullptr, by_type<run<float>, run<double>>};

}  // namespace fastconv::cpu::FASTCONV_ISA
