// Depthwise convolution and grouped convolution of few channels, forward with its epilogue, and dgrad.
//
// A work item is a few rows of one image's output for a block of channels. It computes several pixels of a row at a
// time, one vector of channels after another. A weight is loaded once for all of these pixels, and every multiply-add
// reads one vector of input. An NHWC input is read in place, one of 16 bits if y can be written in place, too. Kernel
// columns outside of it are skipped, one pixel at a time at the edges. Other inputs, and rows with too much edge, are
// packed as NHWC first, with the left and right padding in place, and widened if groups have several channels
// (depthwise.h). Kernel rows that see only padding are skipped. The sums go to y if it is NHWC, else to a buffer for
// the epilogue.
//
// Channels that are no whole vectors, in rows without stride, are computed as flat rows: some pixels are one vector of
// channels, and the filters are repeated for each. A kernel column then moves x by one pixel of it.
#include "conv2d_epilogue.h"
#include "depthwise_direction.h"
#include "isa_kernels.h"
#include "parallel.h"
#include "terms.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int max_pixels = 8;
constexpr int64_t least_items = 16;
constexpr int64_t most_flat_vectors = 8;  // that some pixels of few channels are computed as

template <class T>
struct Plan {
    ChannelBlocks<T> blocks;
    int64_t pitch;                    // of the packed input: elements from pixel to pixel
    Range columns;                    // of the packed input
    int64_t rows, chunks;             // rows: of the epilogue's output per item; chunks: items per image
    int64_t input_rows, output_rows;  // at most, per item

    Plan(const Direction& direction, bool in_place)
        : blocks(direction.channels, direction.depth(), direction.positions(), in_place) {
        const Pool2d& pool = direction.output.pool;
        const Axis& axis = direction.rows;
        pitch = packed_pitch<T>(direction.depth() * blocks.width);
        columns = direction.columns.reach({0, direction.columns.outputs});
        for (chunks = 1;; ++chunks) {
            rows = ceil_div(pool.P, chunks);
            output_rows = min(axis.outputs, (rows - 1) * pool.stride_h + (pool.window_h - 1) * pool.dilation_h + 1);
            const int64_t extent = (axis.window - 1) * axis.dilation;
            input_rows = min(axis.inputs, axis.backward ? (output_rows + extent) / axis.stride + 1
                                                        : (output_rows - 1) * axis.stride + extent + 1);
            const int64_t elements = input_rows * (columns.last - columns.first) * pitch +
                                     output_rows * direction.columns.outputs * blocks.width;
            const int64_t items = direction.output.conv.N * chunks * blocks.count;
            if (rows == 1) break;
            if (elements * int64_t(sizeof(T)) <= depthwise_bytes && items >= least_items) break;
        }
        chunks = ceil_div(pool.P, rows);
    }
};

template <class T>
struct Workspace {
    T *weights, *bias;                          // [block][R][S][depth][width], [block][width]
    T *narrow, *input, *output, *row, *pooled;  // of thread 0; narrow: the input before it is widened
    size_t per_thread, bytes;

    Workspace(const Conv2dProblem& problem, const Direction& direction, const Plan<T>& plan, void* start) {
        const int64_t width = plan.blocks.width;
        Carver carver(start);
        weights = carver.take<T>(plan.blocks.count * direction.positions() * width);
        bias = carver.take<T>(plan.blocks.count * width);
        const size_t shared = carver.used();
        const int64_t pixels = plan.input_rows * (plan.columns.last - plan.columns.first);
        const int64_t channels = most_inputs<T>(direction.groups, width);
        narrow = carver.take<T>(direction.groups.depthwise() ? 0 : pixels * channels + lanes<T>);
        input = carver.take<T>(pixels * plan.pitch);
        output = carver.take<T>(plan.output_rows * direction.columns.outputs * width);
        row = carver.take<T>(direction.output.pool.Q * width);
        pooled = carver.take<T>(problem.pool.Q * max(channels, plan.pitch));
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
    template <class U>
    U* of(int thread, U* of_thread_0) const {
        return of_thread(of_thread_0, thread, per_thread);
    }
};

// Elements from one to the next: of pixels computed together, and of kernel positions.
struct Steps {
    int64_t x_pixel, out_pixel, x_row, x_column, w_row, w_column, depth;
};

// bfloat16 is widened two vectors at a time where registers are many: the even channels of a pair of vectors (terms.h),
// then the odd ones. Weights and bias are in that order, too, but for a last single vector.
#if defined(__AVX512F__) || FASTCONV_VECTOR_BYTES == 64
constexpr bool has_pairs = true;
#else
constexpr bool has_pairs = false;
#endif

// Brings a row of channels into the order of pairs.
inline void order_as_pairs(float* row, int64_t channels) {
    constexpr int W = lanes<float>;
    for (; channels >= 2 * W; channels -= 2 * W, row += 2 * W) {
        float ordered[2 * W];
        for (int i = 0; i < W; ++i) ordered[i] = row[2 * i], ordered[W + i] = row[2 * i + 1];
        copy_row(2 * W, ordered, row);
    }
}

// compute_pixels for the pair of vectors from channel c on.
template <int PIXELS>
inline void compute_pair(const Steps& step, const bfloat16* x, int64_t rows, int64_t columns, const float* w,
                         const float* bias, bfloat16* out, int64_t c) {
    constexpr int W = lanes<float>;
    Vec<float> even[PIXELS], odd[PIXELS];
#pragma GCC unroll 8
    for (int i = 0; i < PIXELS; ++i) even[i] = load(bias + c), odd[i] = load(bias + c + W);
    x += c, w += c;
    for (int64_t r = 0; r < rows; ++r, x += step.x_row, w += step.w_row) {
        const bfloat16* at = x;
        const float* w_at = w;
        for (int64_t s = 0; s < columns; ++s, at += step.x_column, w_at += step.w_column) {
            const Vec<float> w_even = load(w_at), w_odd = load(w_at + W);
#pragma GCC unroll 8
            for (int i = 0; i < PIXELS; ++i) {
                const Terms<bfloat16> pairs = load_terms(at + i * step.x_pixel);
                even[i] += w_even * even_elements(pairs), odd[i] += w_odd * odd_elements(pairs);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < PIXELS; ++i) store_pairs(out + i * step.out_pixel + c, even[i], odd[i]);
}

// For PIXELS pixels and each vector of the channels:
//   out[pixel] = bias + sum over rows x columns x depth of w[row][column][d] * x[pixel + (row, column)][d]
// Without DEEP the depth is 1. E: of x and out.
template <class E, int PIXELS, bool DEEP>
void compute_pixels(const Steps& steps, const E* x, int64_t rows, int64_t columns, const Computed<E>* w,
                    const Computed<E>* bias, E* out, int64_t channels) {
    using T = Computed<E>;
    const Steps step = steps;  // a local copy; else GCC reloads it after every store
    int64_t c = 0;
    if constexpr (has_pairs && is_bfloat16<E>)
        for (; c + 2 * lanes<T> <= channels; c += 2 * lanes<T>)
            compute_pair<PIXELS>(step, x, rows, columns, w, bias, out, c);
    for (; c < channels; c += lanes<T>) {
        Vec<T> acc[PIXELS];
#pragma GCC unroll 8
        for (int i = 0; i < PIXELS; ++i) acc[i] = load(bias + c);
        const E* x_row = x + c;
        const T* w_row = w + c;
        for (int64_t r = 0; r < rows; ++r, x_row += step.x_row, w_row += step.w_row) {
            const E* at = x_row;
            const T* w_at = w_row;
            for (int64_t s = 0; s < columns; ++s, at += step.x_column, w_at += step.w_column)
                for (int64_t d = 0; d < (DEEP ? step.depth : 1); ++d) {
                    const Vec<T> weight = load(w_at + d * channels);
#pragma GCC unroll 8
                    for (int i = 0; i < PIXELS; ++i) acc[i] += weight * load(at + i * step.x_pixel + d * channels);
                }
        }
#pragma GCC unroll 8
        for (int i = 0; i < PIXELS; ++i) store(out + i * step.out_pixel + c, acc[i]);
    }
}

template <class E>
using ComputePixels = void (*)(const Steps&, const E*, int64_t, int64_t, const Computed<E>*, const Computed<E>*, E*,
                               int64_t);

// Returns compute_pixels<E, pixels, ...> for a number known at run time.
template <class E, int PIXELS = 1>
ComputePixels<E> compute_pixels_for(int64_t pixels, int64_t depth) {
    if constexpr (PIXELS < max_pixels)
        if (pixels > PIXELS) return compute_pixels_for<E, PIXELS + 1>(pixels, depth);
    if constexpr (sizeof(E) > 2)  // widened input is float
        if (depth > 1) return compute_pixels<E, PIXELS, true>;
    return compute_pixels<E, PIXELS, false>;
}

// A block's input: the address of pixel (0, 0), elements from row to row and from pixel to pixel, and its columns.
template <class E>
struct Input {
    const E* origin;
    int64_t row, pixel;
    Range columns;
    bool in_place;
};

template <class E>
Input<E> input_in_place(const Direction& direction, const Tensor& x, const E* origin) {
    return {origin, x.stride[2], x.stride[3], {0, direction.columns.inputs}, true};
}

// Prefetches the input rows, from a column on, that the next row of this phase needs and this one does not. It goes
// pixel by pixel, since compute_pixels reads many pixels at once, which no hardware prefetcher foresees.
template <class E>
FASTCONV_PREFETCHES void prefetch_next(const Direction& direction, const Input<E>& x, const Line& row, int64_t h,
                                       int64_t column, int64_t columns, int64_t width) {
    const int64_t first = h + (row.taps - 1) * row.dilation + 1;
    for (int64_t next = max(0, first); next < min(first + row.stride, direction.rows.inputs); ++next)
        for (int64_t i = 0; i < columns; ++i) prefetch_pixel(x.origin + next * x.row + (column + i) * x.pixel, width);
}

// Computes row `output` of a block's outputs. Pixel q goes to out + q * out_pixel.
template <class E>
void compute_row(const Direction& direction, const Input<E>& x, int64_t output, const Computed<E>* w,
                 const Computed<E>* bias, E* out, int64_t out_pixel, int64_t width) {
    using T = Computed<E>;
    const int64_t S = direction.columns.window, position = direction.depth() * width;
    const Line row = direction.rows.line(output % direction.rows.phases());
    const int64_t h = row.start + output / row.step * row.stride;
    const Range rows = valid_positions(h, row.dilation, row.taps, direction.rows.inputs);
    const E* const x_row = x.origin + (h + rows.first * row.dilation) * x.row;
    const T* const w_row = w + (row.first_tap + rows.first * row.tap_step) * S * position;
    for (int64_t phase = 0; phase < direction.columns.phases(); ++phase) {
        const Line line = direction.columns.line(phase);
        const Steps step = {line.stride * x.pixel,   line.step * out_pixel,       row.dilation * x.row,
                            line.dilation * x.pixel, row.tap_step * S * position, line.tap_step * position,
                            direction.depth()};
        const Range inner = inner_pixels(line, x.columns);
        const int64_t count = inner.last - inner.first, groups = ceil_div(count, max_pixels);
        for (int64_t first = 0, last, group = 0; first < line.count; first = last) {
            const int64_t start = line.start + first * line.stride;
            Range columns = {0, line.taps};
            if (first < inner.first || first >= inner.last) {
                columns = valid_positions(start - x.columns.first, line.dilation, line.taps,
                                          x.columns.last - x.columns.first);
                last = first + 1;
            } else {
                last = inner.first + count * ++group / groups;
                if (x.in_place) prefetch_next(direction, x, row, h, start, (last - first) * line.stride, width);
            }
            compute_pixels_for<E>(last - first, step.depth)(
                step, x_row + (start + columns.first * line.dilation) * x.pixel, rows.last - rows.first,
                columns.last - columns.first, w_row + (line.first_tap + columns.first * line.tap_step) * position, bias,
                out + (line.first + first * line.step) * out_pixel, width);
        }
    }
}

// pack(n, rows, block, out, room) packs rows of image n's input for a block of its channels. args: of the epilogue.
template <class T, class Pack>
void run_direction(const Conv2dProblem& problem, const Direction& direction, const FpropArgs& args, const Pack& pack,
                   void* workspace) {
    const Conv2d& conv = problem.conv;
    const Tensor &x = args.x, &y = args.y;
    const bool nhwc = direction.output.epilogue.activation == Activation::none && is_nhwc(y);
    const bool half = element_bytes(x.dtype) < int64_t(sizeof(T));
    const bool in_place = direction.reads_in_place(problem, x, max_pixels) && (nhwc || !half);
    const Plan<T> plan(direction, in_place);
    const Workspace<T> space(problem, direction, plan, workspace);
    const Groups& groups = direction.groups;
    const int64_t width = plan.blocks.width, filter_size = direction.positions() * width;
    const int64_t position = direction.depth() * width, pitch = plan.pitch;
    parallel_for(problem.threads, plan.blocks.count, [&](int64_t block, int) {
        const int64_t first = block * width, count = plan.blocks.of(block);
        T *weights = space.weights + block * filter_size, *bias = space.bias + block * width;
        if (count < width) clear_row(filter_size, weights);
        for (int64_t d = 0; d < direction.depth(); ++d)
            for (int64_t i = 0; i < count;) {
                Tensor filters = direction.filters_from(args.w, first + i, d);
                filters.size[1] = min(filters.size[1], count - i);
                pack_filter(filters, 0, weights + d * width + i, conv.S * position, position);
                i += filters.size[1];
            }
        for (int64_t i = 0; i < width; ++i)
            bias[i] = args.bias.data && i < count ? value_at<T>(args.bias, (first + i) * args.bias.stride[0]) : T(0);
        if constexpr (sizeof(T) == sizeof(float)) {
            if (!has_pairs || !in_place || count < width || x.dtype != DType::bfloat16) return;
            for (int64_t at = 0; at < filter_size; at += width) order_as_pairs(weights + at, width);
            order_as_pairs(bias, width);
        }
    });
    parallel_for(problem.threads, conv.N * plan.chunks * plan.blocks.count, [&](int64_t item, int thread) {
        const int64_t block = item % plan.blocks.count, n = item / plan.blocks.count / plan.chunks;
        const int64_t first_row = item / plan.blocks.count % plan.chunks * plan.rows;
        const int64_t last_row = min(direction.output.pool.P, first_row + plan.rows);
        const int64_t first = block * width, count = plan.blocks.of(block);
        const Range outputs = rows_needed(direction.output, first_row, last_row);
        T *packed = space.of(thread, space.input), *buffer = space.of(thread, space.output);
        const bool whole = count == width, direct = nhwc && whole && (in_place || !half);
        // out: from the first of these rows on.
        const auto compute = [&](const auto& input, auto* out, int64_t out_row, int64_t out_pixel) {
            for (int64_t p = outputs.first; p < outputs.last; ++p)
                compute_row(direction, input, p, space.weights + block * filter_size, space.bias + block * width,
                            out + (p - outputs.first) * out_row, out_pixel, width);
        };
        const int64_t y_start = n * y.stride[0] + first + outputs.first * y.stride[2];
        const int64_t buffer_row = direction.columns.outputs * width;
        if (in_place && whole) {
            with_elements<T>(x, [&](auto* data) {
                const auto input = input_in_place(direction, x, data + n * x.stride[0] + first);
                if (direct) return compute(input, decltype(data)(y.data) + y_start, y.stride[2], y.stride[3]);
                if constexpr (sizeof(*data) == sizeof(T)) compute(input, buffer, buffer_row, width);
            });
        } else {
            Range inputs = direction.rows.reach(outputs);
            inputs = {max(0, inputs.first), min(direction.rows.inputs, inputs.last)};
            const int64_t columns = plan.columns.last - plan.columns.first;
            if (inputs.first < inputs.last) {
                RowBlock block_of_x = {first, count, plan.columns.first, columns, pitch};
                T* to = packed;
                if (!groups.depthwise()) {
                    const Range needed = groups.inputs_of(first, count);
                    block_of_x.first_k = needed.first, block_of_x.count = needed.last - needed.first;
                    block_of_x.pixel = round_up(block_of_x.count, lanes<T>), to = space.of(thread, space.narrow);
                }
                pack(n, inputs, block_of_x, to, space.of(thread, space.pooled));
                if (!groups.depthwise())
                    Widener<T>(groups, first, count, width)(to, (inputs.last - inputs.first) * columns,
                                                            block_of_x.pixel, packed, pitch);
            }
            const Input<T> input = {packed - (inputs.first * columns + plan.columns.first) * pitch, columns * pitch,
                                    pitch, plan.columns, false};
            if (direct) compute(input, static_cast<T*>(y.data) + y_start, y.stride[2], y.stride[3]);
            else compute(input, buffer, buffer_row, width);
        }
        if (!direct)
            run_epilogue(direction.output, args, n, first_row, last_row, buffer, direction.columns.outputs,
                         outputs.first, int(width / lanes<T>), first, count, space.of(thread, space.row));
    });
}

// Rows of few channels, in which `together` pixels are computed as one of `width` channels.
template <class T>
struct FlatPlan {
    int64_t together, width, pixels;  // pixels: of a row, each of `width` channels
    Range columns;                    // of the packed input
    int64_t rows, chunks;             // rows: of the output per item; chunks: items per image
    int64_t input_rows;               // at most, per item

    explicit FlatPlan(const Direction& direction)
        : together(pixels_together(direction)),
          width(together * direction.channels),
          pixels(ceil_div(direction.columns.outputs, together)) {
        const Axis& axis = direction.rows;
        columns = flat(direction).columns.reach({0, direction.columns.outputs});
        for (chunks = 1;; ++chunks) {
            rows = ceil_div(axis.outputs, chunks);
            const int64_t extent = (axis.window - 1) * axis.dilation;
            input_rows = min(axis.inputs,
                             axis.backward ? (rows + extent) / axis.stride + 1 : (rows - 1) * axis.stride + extent + 1);
            if (rows == 1) break;
            const int64_t elements = input_size(direction) + rows * pixels * width;
            if (elements * int64_t(sizeof(T)) <= depthwise_bytes && direction.output.conv.N * chunks >= least_items)
                break;
        }
        chunks = ceil_div(axis.outputs, rows);
    }

    // The least number of pixels whose channels are whole vectors. 1: there is no gain, or no way.
    static int64_t pixels_together(const Direction& direction) {
        if (!direction.groups.depthwise() || direction.columns.stride > 1) return 1;
        if (direction.output.epilogue.activation != Activation::none) return 1;
        int64_t count = 1;
        while (count * direction.channels % lanes<T>) ++count;
        return count * direction.channels <= most_flat_vectors * lanes<T> ? count : 1;
    }
    Direction flat(Direction direction) const {
        direction.columns.together = together;
        return direction;
    }
    int64_t input_size(const Direction& direction) const {
        return input_rows * (columns.last - columns.first) * direction.channels;
    }
};

template <class T>
struct FlatWorkspace {
    T *weights, *bias;            // [R][S][width], [width]
    T *filters, *input, *output;  // filters: [R][S][channels]; the others of thread 0
    size_t per_thread, bytes;

    FlatWorkspace(const Conv2dProblem& problem, const Direction& direction, const FlatPlan<T>& plan, void* start) {
        Carver carver(start);
        weights = carver.take<T>(direction.positions() * plan.width), bias = carver.take<T>(plan.width);
        filters = carver.take<T>(direction.positions() * direction.channels);
        const size_t shared = carver.used();
        input = carver.take<T>(plan.input_size(direction));
        output = carver.take<T>(plan.rows * plan.pixels * plan.width);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
};

// x: of this direction, dy for dgrad.
template <class T>
void run_flat(const Conv2dProblem& problem, const Direction& direction, const FlatPlan<T>& plan, const FpropArgs& args,
              void* workspace) {
    const Conv2d& conv = problem.conv;
    const FlatWorkspace<T> space(problem, direction, plan, workspace);
    const Direction flat = plan.flat(direction);
    const int64_t channels = direction.channels, columns = plan.columns.last - plan.columns.first;
    pack_filter(direction.filters_from(args.w, 0, 0), 0, space.filters, conv.S * channels, channels);
    for (int64_t i = 0; i < direction.positions() * plan.together; ++i)
        copy_row(channels, space.filters + i / plan.together * channels, space.weights + i * channels);
    for (int64_t i = 0; i < plan.width; ++i)
        space.bias[i] = args.bias.data ? value_at<T>(args.bias, i % channels * args.bias.stride[0]) : T(0);
    parallel_for(problem.threads, conv.N * plan.chunks, [&](int64_t item, int thread) {
        const int64_t n = item / plan.chunks, first = item % plan.chunks * plan.rows;
        const Range outputs = {first, min(direction.rows.outputs, first + plan.rows)};
        T* const packed = of_thread(space.input, thread, space.per_thread);
        T* const out = of_thread(space.output, thread, space.per_thread);
        Range inputs = direction.rows.reach(outputs);
        inputs = {max(0, inputs.first), min(direction.rows.inputs, inputs.last)};
        if (inputs.first < inputs.last)
            pack_rows(args.x, n, inputs.first, inputs.last - inputs.first, plan.columns.first, columns, channels,
                      packed);
        const Input<T> input = {packed - (inputs.first * columns + plan.columns.first) * channels, columns * channels,
                                channels, plan.columns, false};
        const int64_t row = plan.pixels * plan.width;
        for (int64_t p = outputs.first; p < outputs.last; ++p)
            compute_row(flat, input, p, space.weights, space.bias, out + (p - outputs.first) * row, plan.width,
                        plan.width);
        with_elements<T>(args.y, [&](auto* y) {
            y += n * args.y.stride[0];
            for (int64_t p = outputs.first; p < outputs.last; ++p)
                copy2d(direction.columns.outputs, channels, out + (p - outputs.first) * row, channels, 1,
                       y + p * args.y.stride[2], args.y.stride[3], args.y.stride[1]);
        });
    });
}

template <class T>
void fprop(const Conv2dProblem& problem, const FpropArgs& args, const Launch& launch) {
    const Direction direction(problem, false);
    const FlatPlan<T> flat(direction);
    if (flat.together > 1) return run_flat(problem, direction, flat, args, launch.workspace);
    const auto pack = [&](int64_t n, Range rows, const RowBlock& block, T* out, T*) {
        pack_rows(channels_of(args.x, block.first_k, block.count), n, rows.first, rows.last - rows.first, block.q0,
                  block.width, block.pixel, out);
    };
    run_direction<T>(problem, direction, args, pack, launch.workspace);
}

template <class T>
void dgrad(const Conv2dProblem& problem, const DgradArgs& args, const Launch& launch) {
    const Direction direction(problem, true);
    const FlatPlan<T> flat(direction);
    const FpropArgs as_fprop = {args.dy, args.w, {}, args.dx, {}};
    if (flat.together > 1 && problem.epilogue.activation == Activation::none)
        return run_flat(problem, direction, flat, as_fprop, launch.workspace);
    const auto pack = [&](int64_t n, Range rows, const RowBlock& block, T* out, T* pooled) {
        gradient_rows(problem, args.dy, args.code, n, rows, block, out, pooled);
    };
    run_direction<T>(problem, direction, as_fprop, pack, launch.workspace);
}

// Sized for packed input, too: whether x can be read in place depends on its strides.
template <class T, bool backward>
size_t workspace(const Conv2dProblem& problem) {
    const Direction direction(problem, backward);
    const auto bytes = [&](bool in_place) {
        return Workspace<T>(problem, direction, Plan<T>(direction, in_place), nullptr).bytes;
    };
    int64_t most = max(int64_t(bytes(false)), int64_t(bytes(true)));
    const FlatPlan<T> flat(direction);
    if (flat.together > 1) most = max(most, int64_t(FlatWorkspace<T>(problem, direction, flat, nullptr).bytes));
    return size_t(most);
}

}  // namespace

extern const Implementation<FpropArgs> depthwise_fprop, grouped_fprop;
extern const Implementation<DgradArgs> depthwise_dgrad, grouped_dgrad;
const Implementation<FpropArgs> depthwise_fprop = {
    "depthwise",  depthwise_condition,
    is_depthwise, by_type<workspace<float, false>, workspace<double, false>>,
    nullptr,      by_type<fprop<float>, fprop<double>>};
const Implementation<DgradArgs> depthwise_dgrad = {
    "depthwise",  depthwise_condition,
    is_depthwise, by_type<workspace<float, true>, workspace<double, true>>,
    nullptr,      by_type<dgrad<float>, dgrad<double>>};
const Implementation<FpropArgs> grouped_fprop = {
    "grouped",
    grouped_condition,
    by_type<has_few_channels<float, false>, has_few_channels<double, false>>,
    by_type<workspace<float, false>, workspace<double, false>>,
    nullptr,
    by_type<fprop<float>, fprop<double>>};
const Implementation<DgradArgs> grouped_dgrad = {"grouped",
                                                 grouped_condition,
                                                 by_type<has_few_channels<float, true>, has_few_channels<double, true>>,
                                                 by_type<workspace<float, true>, workspace<double, true>>,
                                                 nullptr,
                                                 by_type<dgrad<float>, dgrad<double>>};

}  // namespace fastconv::cpu::FASTCONV_ISA
