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
// dgrad is computed the same way. With stride u, the rows of dx fall into u phases (h % u). The rows of a phase are a
// convolution of dy with stride 1 and every few rows of the kernel (Line); so are columns.
#include "conv2d_epilogue.h"
#include "depthwise.h"
#include "dgrad_as_fprop.h"
#include "isa_kernels.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int max_pixels = 8;
constexpr int64_t least_items = 16;

// One axis of a convolution, or of its dgrad.
struct Axis {
    bool backward;
    int64_t inputs, outputs, window, stride, pad, dilation;

    int64_t phases() const { return backward ? min(stride, outputs) : 1; }

    Line line(int64_t phase) const {
        if (!backward) return {0, 1, outputs, -pad, stride, dilation, window, 0, 1};
        // From the last kernel position that reaches this phase to the first.
        const PhaseTaps taps(phase, stride, pad, dilation, window);
        return {phase,         stride,     ceil_div(outputs - phase, stride),         -taps.pad, 1,
                taps.dilation, taps.count, taps.first + (taps.count - 1) * taps.step, -taps.step};
    }

    // The inputs that these outputs read, from the first to the last, padding included.
    Range reach(Range some) const {
        int64_t first = 0, last = 0;
        for (int64_t phase = 0; phase < phases(); ++phase) {
            const Line line = this->line(phase);
            const int64_t from = ceil_div(max(0, some.first - line.first), line.step);
            const int64_t to = min(line.count, ceil_div(max(0, some.last - line.first), line.step));
            if (from >= to || line.taps == 0) continue;
            const int64_t begin = line.start + from * line.stride;
            const int64_t end = line.start + (to - 1) * line.stride + (line.taps - 1) * line.dilation + 1;
            first = first < last ? min(first, begin) : begin, last = max(last, end);
        }
        return {first, last};
    }
};

// A direction: its two axes, its channels, and the shape of its output and of the epilogue's, as in a forward pass.
struct Direction {
    Axis rows, columns;
    int64_t channels;  // of the output
    Groups groups;
    Conv2dProblem output;

    Direction(const Conv2dProblem& problem, bool backward) : groups(problem.conv, backward), output(problem) {
        const Conv2d& conv = problem.conv;
        channels = backward ? conv.C : conv.K;
        rows = {backward, conv.H, conv.P, conv.R, conv.stride_h, conv.pad_h, conv.dilation_h};
        columns = {backward, conv.W, conv.Q, conv.S, conv.stride_w, conv.pad_w, conv.dilation_w};
        if (!backward) return;
        rows.inputs = conv.P, rows.outputs = conv.H, columns.inputs = conv.Q, columns.outputs = conv.W;
        output.conv.P = conv.H, output.conv.Q = conv.W;
        output.epilogue = {};
        output.pool = {};
        output.pool.P = conv.H, output.pool.Q = conv.W;
    }

    int64_t depth() const { return groups.inputs; }
    int64_t positions() const { return rows.window * columns.window * depth(); }  // of a filter

    // Filters of output channels from `first` on, as one filter: their channel d. Its size says how many channels
    // follow at even steps.
    Tensor filters_from(const Tensor& w, int64_t first, int64_t d) const {
        Tensor filter = w;
        int64_t at = first * w.stride[0] + d * w.stride[1];
        filter.size[0] = 1, filter.size[1] = channels - first, filter.stride[1] = w.stride[0];
        if (rows.backward) {  // a group's outputs are the channels of its filters
            const int64_t group = first / groups.outputs, i = first % groups.outputs;
            at = (group * groups.inputs + d) * w.stride[0] + i * w.stride[1];
            if (groups.outputs > 1) filter.size[1] = groups.outputs - i, filter.stride[1] = w.stride[1];
            else filter.stride[1] = groups.inputs * w.stride[0];
        }
        filter.data = address(w, at);
        return filter;
    }

    // Whether x, the input, is NHWC and can be read in place: edges must be a small part of a row.
    bool reads_in_place(const Conv2dProblem& problem, const Tensor& x) const {
        if (!groups.depthwise()) return false;
        if (!is_nhwc(x) || (rows.backward && problem.epilogue.activation != Activation::none)) return false;
        int64_t inner = 0;
        for (int64_t phase = 0; phase < columns.phases(); ++phase) {
            const Range pixels = inner_pixels(columns.line(phase), {0, columns.inputs});
            inner += pixels.last - pixels.first;
        }
        const int64_t at_once = rows.window * ((max_pixels - 1) * columns.stride + columns.window);
        return 2 * inner >= columns.outputs && fit_in_cache(at_once, x.stride[3] * element_bytes(x.dtype));
    }
};

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

// For PIXELS pixels and each vector of the channels:
//   out[pixel] = bias + sum over rows x columns x depth of w[row][column][d] * x[pixel + (row, column)][d]
// Without DEEP the depth is 1. E: of x and out.
template <class E, int PIXELS, bool DEEP>
void compute_pixels(const Steps& steps, const E* x, int64_t rows, int64_t columns, const Computed<E>* w,
                    const Computed<E>* bias, E* out, int64_t channels) {
    using T = Computed<E>;
    const Steps step = steps;  // a local copy; else GCC reloads it after every store
    for (int64_t c = 0; c < channels; c += lanes<T>) {
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
    const bool in_place = direction.reads_in_place(problem, x) && (nhwc || !half);
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
            run_epilogue(direction.output, args, n, first_row, last_row, buffer, outputs.first, int(width / lanes<T>),
                         first, count, space.of(thread, space.row));
    });
}

template <class T>
void fprop(const Conv2dProblem& problem, const FpropArgs& args, const Launch& launch) {
    const auto pack = [&](int64_t n, Range rows, const RowBlock& block, T* out, T*) {
        pack_rows(channels_of(args.x, block.first_k, block.count), n, rows.first, rows.last - rows.first, block.q0,
                  block.width, block.pixel, out);
    };
    run_direction<T>(problem, Direction(problem, false), args, pack, launch.workspace);
}

template <class T>
void dgrad(const Conv2dProblem& problem, const DgradArgs& args, const Launch& launch) {
    const auto pack = [&](int64_t n, Range rows, const RowBlock& block, T* out, T* pooled) {
        gradient_rows(problem, args.dy, args.code, n, rows, block, out, pooled);
    };
    run_direction<T>(problem, Direction(problem, true), {args.dy, args.w, {}, args.dx, {}}, pack, launch.workspace);
}

// Sized for packed input, too: whether x can be read in place depends on its strides.
template <class T, bool backward>
size_t workspace(const Conv2dProblem& problem) {
    const Direction direction(problem, backward);
    const auto bytes = [&](bool in_place) {
        return Workspace<T>(problem, direction, Plan<T>(direction, in_place), nullptr).bytes;
    };
    return size_t(max(int64_t(bytes(false)), int64_t(bytes(true))));
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
