// A depthwise or grouped convolution of few channels as its two axes, for fprop and for dgrad.
//
// dgrad is computed as a convolution, too. With stride u, the rows of dx fall into u phases (h % u). The rows of a
// phase are a convolution of dy with stride 1 and every few rows of the kernel (Line); so are columns.
#pragma once

#include "depthwise.h"
#include "dgrad_as_fprop.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// One axis of a convolution, or of its dgrad.
struct Axis {
    bool backward;
    int64_t inputs, outputs, window, stride, pad, dilation;
    int64_t together = 1;  // neighboring outputs that a line counts as one; more only for stride 1

    int64_t phases() const { return backward ? min(stride, outputs) : 1; }

    Line line(int64_t phase) const {
        if (!backward) return {0, 1, ceil_div(outputs, together), -pad, stride * together, dilation, window, 0, 1};
        // From the last kernel position that reaches this phase to the first.
        const PhaseTaps taps(phase, stride, pad, dilation, window);
        const int64_t count = ceil_div(ceil_div(outputs - phase, stride), together);
        return {phase,     stride,        count,      -taps.pad,
                together,  taps.dilation, taps.count, taps.first + (taps.count - 1) * taps.step,
                -taps.step};
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
            const int64_t end = line.start + (to - 1) * line.stride + (line.taps - 1) * line.dilation + together;
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

    // Whether x, the input, is NHWC and can be read in place: edges must be a small part of a row. A row's pixels are
    // computed some at once.
    bool reads_in_place(const Conv2dProblem& problem, const Tensor& x, int64_t pixels_at_once) const {
        if (!groups.depthwise()) return false;
        if (!is_nhwc(x) || (rows.backward && problem.epilogue.activation != Activation::none)) return false;
        int64_t inner = 0;
        for (int64_t phase = 0; phase < columns.phases(); ++phase) {
            const Range pixels = inner_pixels(columns.line(phase), {0, columns.inputs});
            inner += pixels.last - pixels.first;
        }
        const int64_t at_once = rows.window * ((pixels_at_once - 1) * columns.stride + columns.window);
        return 2 * inner >= columns.outputs && fit_in_cache(at_once, x.stride[3] * element_bytes(x.dtype));
    }
};

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
