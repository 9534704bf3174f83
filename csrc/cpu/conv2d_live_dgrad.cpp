// conv2d gradient of the input, from the live gradients (live.h):
//
//   dx[p * stride + r, q * stride + s, c] += sum over live (k, g) of pixel (p, q): g * w[k][r, s, c]
//
// Images are taken a few at a time, as many as the outer cache holds, in two steps over all threads:
//   1. for each pixel (p, q) of the convolution's output list the live gradients of all k (an NCHW dy is
//      turned to NHWC before);
//   2. a work item has a block of rows of one image's dx, with the padding around it, adds up what
//      falls into them, and writes them out without the padding. For one piece of the kernel it goes along
//      a row of pixels: that piece of all filters and the row's lists stay close.
// A row of dx has one owner, which adds in a fixed order: the same bits for any number of threads.
#include "isa_kernels.h"
#include "live.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t images_bytes = 8 << 20;  // lists of the images taken at a time
constexpr int64_t block_bytes = 256 << 10;  // rows of dx of an item: what the second-level cache can hold
constexpr int64_t least_items = 16;

// A window over a row or column of pixels: which window, and at which of its positions.
struct Cover {
    int64_t window, position;
};

// The windows over place p, of `count` windows; returns the end of the list.
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
    int64_t width;  // of dx with its padding
    Slabs<T> slabs;
    int64_t capacity;           // of the lists of one row of pixels
    int64_t images;             // at a time
    int64_t block_rows, blocks;  // rows of dx of an item, items of an image
    int64_t block_size;         // elements

    static int64_t padded_width(const Conv2d& conv) {
        return max(conv.W + conv.pad_w, (conv.Q - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1);
    }

    explicit DgradPlan(const Conv2dProblem& problem)
        : width(padded_width(problem.conv)), slabs(problem.conv, width) {
        const Conv2d& conv = problem.conv;
        const Pool2d& pool = problem.pool;
        const int64_t overlap = min(pool.window_h, pool.P);  // rows of windows that may share a row of pixels
        capacity = conv.K * pool.Q * overlap + list_slack;
        const int64_t bytes = conv.P * capacity * int64_t(sizeof(T) + sizeof(int32_t));
        images = max(1, min(conv.N, images_bytes / bytes));
        images = ceil_div(conv.N, ceil_div(conv.N, images));
        const int64_t row_bytes = width * conv.C * int64_t(sizeof(T));
        block_rows = max(1, min(block_bytes / row_bytes, conv.H * images / least_items));
        blocks = ceil_div(conv.H, block_rows);
        block_rows = ceil_div(conv.H, blocks);
        // The last vector of a slab reaches beyond it.
        block_size = block_rows * width * conv.C + lanes<T>;
    }
};

template <class T>
struct DgradWorkspace {
    T *w, *dy, *g;              // packed filters; dy as NHWC; entries [image][row][capacity]
    int32_t *offset, *k_offset;  // entries; of filter k in its group, in w
    int64_t* start;             // [image][row][Q * groups + 1]: where a pixel's list starts, per group
    Cover** columns;            // [Q + 1]: where the windows over a column of pixels start
    T* block;                   // of thread 0
    size_t per_thread, bytes;

    DgradWorkspace(const Conv2dProblem& problem, const DgradPlan<T>& plan, void* start_) {
        const Conv2d& conv = problem.conv;
        const int64_t rows = plan.images * conv.P;
        Carver carver(start_);
        w = carver.take<T>(conv.K * plan.slabs.filter_size);
        dy = carver.take<T>(plan.images * problem.pool.P * problem.pool.Q * conv.K);
        g = carver.take<T>(rows * plan.capacity);
        offset = carver.take<int32_t>(rows * plan.capacity);
        k_offset = carver.take<int32_t>(plan.slabs.filters + lanes<T>);
        start = carver.take<int64_t>(rows * (conv.Q * conv.groups + 1));
        columns = carver.take<Cover*>(conv.Q + 1);
        Cover* const covers = carver.take<Cover>(conv.Q * problem.pool.window_w);
        if (columns) columns[0] = covers;
        const size_t shared = carver.used();
        block = carver.take<T>(plan.block_size);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
};

// Appends those of `filters` gradients side by side whose code c has wanted(c); codes may be null: all.
template <class T, class Wanted>
void list_filters(int64_t filters, const T* dy, const uint8_t* code, const Wanted& wanted, const int32_t* k_offset,
                  int32_t* offsets, T* values, int64_t& count) {
    int64_t k = 0;
    if constexpr (sizeof(T) == 4) {
        constexpr int W = lanes<T>;
        for (; k + W <= filters; k += W) {
            const Vec<T> g = load(dy + k);
            Mask<T> live = g != 0;
            if (code) live &= wanted(load_bytes<T>(code + k));
            append(live, load(k_offset + k), g, offsets, values, count);
        }
    }
    for (; k < filters; ++k)
        append(dy[k] != 0 && (!code || wanted(int(code[k]))), k_offset[k], dy[k], offsets, values, count);
}

// Step 1 for row p of image n. dy points to the image, its pixels dy_row and dy_column apart.
template <class T>
void list_pixels(const Conv2dProblem& problem, const DgradPlan<T>& plan, const DgradWorkspace<T>& space,
                 const T* dy, int64_t dy_row, int64_t dy_column, const uint8_t* code, int64_t p, int64_t list_row) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    int32_t* offsets = space.offset + list_row * plan.capacity;
    T* values = space.g + list_row * plan.capacity;
    int64_t* start = space.start + list_row * (conv.Q * conv.groups + 1);
    const int64_t filters = plan.slabs.filters;
    Cover rows[max_positions];
    const Cover* const end_rows =
        list_covers(p, pool.window_h, pool.stride_h, pool.pad_h, pool.dilation_h, pool.P, rows);
    int64_t count = 0;
    for (int64_t q = 0; q < conv.Q; ++q) {
        for (int64_t group = 0; group < conv.groups; ++group) {
            const int64_t k = group * filters;
            *start++ = count;
            if (problem.epilogue != Epilogue::relu_max_pool) {
                const uint8_t* bytes =
                    problem.epilogue == Epilogue::relu ? code + (p * ceil_div(conv.Q, 8) + q / 8) * conv.K + k : nullptr;
                const int bit = 1 << (q % 8);
                list_filters(filters, dy + p * dy_row + q * dy_column + k, bytes,
                             [bit](auto c) { return (c & bit) != 0; }, space.k_offset, offsets, values, count);
                continue;
            }
            for (const Cover* row = rows; row < end_rows; ++row) {
                for (const Cover* column = space.columns[q]; column < space.columns[q + 1]; ++column) {
                    const int position = int(row->position * pool.window_w + column->position);
                    list_filters(filters, dy + row->window * dy_row + column->window * dy_column + k,
                                 code + (row->window * pool.Q + column->window) * conv.K + k,
                                 [position](auto c) { return c == position; }, space.k_offset, offsets, values, count);
                }
            }
        }
    }
    *start = count;
}

// Adds, for row p of pixels, what falls into `rows` slabs from (outer, row) on; `to` is where the slab of
// pixel 0 lies.
template <class T>
void add_row(const Conv2dProblem& problem, const DgradPlan<T>& plan, const DgradWorkspace<T>& space,
             int64_t list_row, int64_t outer, int64_t first_row, int64_t rows, T* to) {
    const Conv2d& conv = problem.conv;
    const Slabs<T>& slabs = plan.slabs;
    constexpr int W = lanes<T>;
    const int64_t* start = space.start + list_row * (conv.Q * conv.groups + 1);
    const int32_t* offsets = space.offset + list_row * plan.capacity;
    const T* values = space.g + list_row * plan.capacity;
    for (int64_t done = 0, some; done < rows; done += some) {
        some = min(slabs.rows_at_once, rows - done);
        const int64_t row = first_row + done;
        for (int64_t piece = 0; piece < slabs.pieces; ++piece) {
            const auto add = accumulate_for<T>(some, piece_vectors(slabs, piece));
            const int64_t piece_start = piece * slabs.vectors_at_once * W;
            const T* w = space.w + (outer * slabs.rows + row) * slabs.vectors * W + piece_start;
            T* at = to + done * slabs.row_step + piece_start;
            for (int64_t q = 0; q < conv.Q; ++q, at += conv.stride_w * conv.C) {
                for (int64_t group = 0; group < conv.groups; ++group) {
                    const int64_t list = q * conv.groups + group, first = start[list], count = start[list + 1] - first;
                    if (count)
                        add(offsets + first, values + first, count, w + group * slabs.filters * slabs.filter_size,
                            slabs.vectors * W, at + group * slabs.channels, slabs.row_step);
                }
            }
        }
    }
}

// Step 2 for one item: rows first_h .. last_h of dx.
template <class T>
void add_block(const Conv2dProblem& problem, const DgradPlan<T>& plan, const DgradArgs& args,
               const DgradWorkspace<T>& space, int64_t n, int64_t image, int64_t first_h, int64_t last_h, T* block) {
    const Conv2d& conv = problem.conv;
    const Slabs<T>& slabs = plan.slabs;
    std::memset(block, 0, size_t(plan.block_size) * sizeof(T));
    const int64_t first = first_h + conv.pad_h, last = last_h + conv.pad_h;  // with the padding above
    const int64_t reach = (conv.R - 1) * conv.dilation_h;
    const int64_t first_p = max(0, ceil_div(max(0, first - reach), conv.stride_h));
    const int64_t last_p = min(conv.P, (last - 1) / conv.stride_h + 1);
    for (int64_t p = first_p; p < last_p; ++p) {
        // Kernel rows r with first <= p * stride_h + r * dilation_h < last.
        const int64_t h = p * conv.stride_h;
        const int64_t first_r = ceil_div(max(0, first - h), conv.dilation_h);
        const int64_t last_r = min(conv.R, ceil_div(last - h, conv.dilation_h));
        const auto place = [&](int64_t r) { return block + (h + r * conv.dilation_h - first) * plan.width * conv.C; };
        if (first_r >= last_r) continue;
        if (slabs.whole_rows)
            add_row(problem, plan, space, image * conv.P + p, 0, first_r, last_r - first_r, place(first_r));
        else
            for (int64_t r = first_r; r < last_r; ++r)
                add_row(problem, plan, space, image * conv.P + p, r, 0, slabs.rows, place(r));
    }
    for (int64_t h = first_h; h < last_h; ++h) {
        T* dx = static_cast<T*>(args.dx.data) + n * args.dx.stride[0] + h * args.dx.stride[2];
        copy2d(conv.W, conv.C, block + ((h - first_h) * plan.width + conv.pad_w) * conv.C, conv.C, 1, dx,
               args.dx.stride[3], args.dx.stride[1]);
    }
}

template <class T>
void run_typed(const Conv2dProblem& problem, const DgradArgs& args, void* workspace) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    const DgradPlan<T> plan(problem);
    const DgradWorkspace<T> space(problem, plan, workspace);
    parallel_for(problem.threads, conv.K, [&](int64_t k, int) {
        T* filter = space.w + k * plan.slabs.filter_size;
        std::memset(filter, 0, size_t(plan.slabs.filter_size) * sizeof(T));
        pack_filter(args.w, k, filter, plan.slabs.r_step, plan.slabs.s_step);
    });
    for (int64_t k = 0; k < plan.slabs.filters; ++k) space.k_offset[k] = int32_t(k * plan.slabs.filter_size);
    for (int64_t q = 0; q < conv.Q; ++q)
        space.columns[q + 1] = list_covers(q, pool.window_w, pool.stride_w, pool.pad_w, pool.dilation_w, pool.Q,
                                           space.columns[q]);

    const bool nhwc = args.dy.stride[1] == 1;
    const int64_t dy_row = nhwc ? args.dy.stride[2] : pool.Q * conv.K;
    const int64_t dy_column = nhwc ? args.dy.stride[3] : conv.K;
    const int64_t code_size = problem.epilogue == Epilogue::relu ? conv.P * ceil_div(conv.Q, 8) * conv.K
                                                                 : pool.P * pool.Q * conv.K;
    for (int64_t first = 0; first < conv.N; first += plan.images) {
        const int64_t images = min(plan.images, conv.N - first);
        const T* dy = static_cast<const T*>(args.dy.data) + first * args.dy.stride[0];
        if (!nhwc)
            parallel_for(problem.threads, images * pool.P, [&](int64_t item, int) {
                copy2d(pool.Q, conv.K, dy + item / pool.P * args.dy.stride[0] + item % pool.P * args.dy.stride[2],
                       args.dy.stride[3], args.dy.stride[1], space.dy + item * pool.Q * conv.K, conv.K, 1);
            });
        parallel_for(problem.threads, images * conv.P, [&](int64_t item, int) {
            const int64_t image = item / conv.P;
            const uint8_t* code = static_cast<const uint8_t*>(args.code.data);
            list_pixels(problem, plan, space, nhwc ? dy + image * args.dy.stride[0] : space.dy + image * pool.P * dy_row,
                        dy_row, dy_column, code ? code + (first + image) * code_size : nullptr, item % conv.P, item);
        });
        parallel_for(problem.threads, images * plan.blocks, [&](int64_t item, int thread) {
            const int64_t image = item / plan.blocks, first_h = item % plan.blocks * plan.block_rows;
            T* block = reinterpret_cast<T*>(reinterpret_cast<char*>(space.block) + size_t(thread) * space.per_thread);
            add_block(problem, plan, args, space, first + image, image, first_h, min(conv.H, first_h + plan.block_rows),
                      block);
        });
    }
}

// Offsets are 32-bit, and one row of pixels and its lists have to be of a sane size.
bool applies(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    if (conv.N == 0 || conv.C == 0 || conv.H == 0 || conv.W == 0) return false;
    if (conv.K == 0 || pool.P == 0 || pool.Q == 0) return false;
    if (conv.groups > 1 && conv.C / conv.groups < 4) return false;  // depthwise: vectors would stay empty
    constexpr double limit = 1 << 28;
    const double width = double(conv.W) + double(conv.pad_w) + double(conv.Q) * double(conv.stride_w) +
                         double(conv.S) * double(conv.dilation_w);
    const double lists = double(conv.P) * double(conv.K) * double(pool.Q) * double(pool.window_h);
    return double(conv.dilation_h) * width * double(conv.C) < limit && lists < limit &&
           double(conv.K) * double(conv.C + 16) * double(conv.R) * double(conv.S) < limit;
}

size_t workspace(const Conv2dProblem& problem) {
    return problem.dtype == DType::float32
               ? DgradWorkspace<float>(problem, DgradPlan<float>(problem), nullptr).bytes
               : DgradWorkspace<double>(problem, DgradPlan<double>(problem), nullptr).bytes;
}

void run(const Conv2dProblem& problem, const DgradArgs& args, void* space) {
    (problem.dtype == DType::float32 ? run_typed<float> : run_typed<double>)(problem, args, space);
}

}  // namespace

extern const Implementation<DgradArgs> live_dgrad;
const Implementation<DgradArgs> live_dgrad = {"live", applies, workspace, run};

}  // namespace fastconv::cpu::FASTCONV_ISA
