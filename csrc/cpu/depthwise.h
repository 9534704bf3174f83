// Code shared by the directions of depthwise and grouped convolutions of few channels. Vectors are over the output
// channels of all groups, which are cut into blocks, and a filter's position is a vector, too.
//
// In a depthwise convolution these vectors meet vectors of x at the same place. In a grouped one each channel meets
// `depth` channels of its group. There x is widened: [pixel][depth][channel] has a vector for each multiply-add, and
// the group's channels are repeated in it for every output channel.
#pragma once

#include "gradient_rows.h"
#include "isa_kernels.h"
#include "pack.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t depthwise_bytes = 384 << 10;  // packed, per item: stays in L2
constexpr int64_t cache_bytes = 32 << 10;       // of L1
constexpr int64_t line_bytes = 64;
template <class T>
constexpr int64_t line_of = line_bytes / int64_t(sizeof(T));  // elements of a cache line

// Elements from one packed pixel to the next: an odd number of cache lines, so that pixels use all sets of L1.
template <class T>
inline int64_t packed_pitch(int64_t elements) {
    return (ceil_div(elements, line_of<T>) | 1) * line_of<T>;
}

// Bytes of a block: of its filters, beside which L1 must hold some input, and of a pixel. Packed pixels are neighbors
// in memory, so larger blocks gain nothing. In place, long runs read faster.
struct BlockLimits {
    int64_t filters, pixel;
};
constexpr BlockLimits packed_limits = {13 << 10, 512}, in_place_limits = {18 << 10, 1536};

// The output channels, cut into blocks of whole vectors as evenly as possible.
template <class T>
struct ChannelBlocks {
    int64_t channels, width, count;  // width: channels per block; the last one may have fewer

    // positions: of a filter, with all of its depth.
    ChannelBlocks(int64_t channels_, int64_t depth, int64_t positions, bool in_place) : channels(channels_) {
        const BlockLimits limits = in_place ? in_place_limits : packed_limits;
        const int64_t most_vectors =
            max(1, min(limits.pixel / depth, limits.filters / positions) / FASTCONV_VECTOR_BYTES);
        const int64_t vectors = ceil_div(channels, lanes<T>);
        width = ceil_div(vectors, ceil_div(vectors, most_vectors)) * lanes<T>;
        count = ceil_div(channels, width);
    }
    int64_t of(int64_t block) const { return min(width, channels - block * width); }
};

// The input channels of each output channel: those of its group.
struct Groups {
    int64_t inputs, outputs;  // channels per group; inputs is the depth

    // `backward`: of dgrad, whose input is dy.
    explicit Groups(const Conv2d& conv, bool backward = false)
        : inputs((backward ? conv.K : conv.C) / conv.groups), outputs((backward ? conv.C : conv.K) / conv.groups) {}

    bool depthwise() const { return inputs == 1 && outputs == 1; }
    // The input channels that output channels first to first + count need.
    Range inputs_of(int64_t first, int64_t count) const {
        return {first / outputs * inputs, ((first + count - 1) / outputs + 1) * inputs};
    }
};

// The most input channels that `width` output channels need, rounded up to whole vectors.
template <class T>
inline int64_t most_inputs(const Groups& groups, int64_t width) {
    return groups.depthwise() ? width : round_up(((width - 2) / groups.outputs + 2) * groups.inputs, lanes<T>);
}

// Widens the input channels of a block of output channels, pixel by pixel.
template <class T>
class Widener {
public:
    // first, count: the block's output channels. width: rounded up to whole vectors.
    Widener(const Groups& groups, int64_t first, int64_t count, int64_t width)
        : groups_(groups), first_(first), count_(count), width_(width) {}

    // in: [pixel][in_pitch] from the first needed input channel on, with a vector's room behind the last pixel.
    // out: [pixel][out_pitch].
    void operator()(const T* in, int64_t pixels, int64_t in_pitch, T* out, int64_t out_pitch) const {
        constexpr int W = lanes<T>;
        for (int64_t v = 0; v < width_; v += W) {
            int64_t source[W];
            for (int i = 0; i < W; ++i) source[i] = source_of(min(v + i, count_ - 1));
            // Two loads hold all sources if each is near the first or near the last.
            const int64_t low = source[0], high = max(source[0], source[W - 1] - W + 1);
            Mask<T> from;
            bool two_loads = true;
            for (int i = 0; i < W; ++i) {
                const bool is_low = source[i] - low < W;
                two_loads &= is_low || source[i] >= high;
                from[i] = is_low ? source[i] - low : source[i] - high + W;
            }
            for (int64_t pixel = 0; pixel < pixels; ++pixel) {
                const T* at = in + pixel * in_pitch;
                T* to = out + pixel * out_pitch + v;
                for (int64_t d = 0; d < groups_.inputs; ++d, ++at, to += width_) {
                    if (two_loads) store(to, Vec<T>(__builtin_shuffle(load(at + low), load(at + high), from)));
                    else
                        for (int i = 0; i < W; ++i) to[i] = at[source[i]];
                }
            }
        }
    }

private:
    Groups groups_;
    int64_t first_, count_, width_;

    int64_t source_of(int64_t channel) const {
        return (first_ + channel) / groups_.outputs * groups_.inputs - first_ / groups_.outputs * groups_.inputs;
    }
};

// Views filters as one filter of K channels, [1][K][R][S], for the copies of pack.h: channel d of each filter's own.
inline Tensor as_one_filter(const Tensor& w, int64_t d = 0) {
    Tensor filter = w;
    filter.data = address(w, d * w.stride[1]);
    filter.size[0] = 1, filter.size[1] = w.size[0];
    filter.stride[0] = 0, filter.stride[1] = w.stride[0];
    return filter;
}

// Whether vectors of channels can be read from t, or written to it, directly.
inline bool is_nhwc(const Tensor& t) { return t.stride[1] == 1; }

// A line of outputs along one axis. Output first + i * step, i < count, is the sum over t < taps of kernel position
// first_tap + t * tap_step times input start + i * stride + t * dilation.
struct Line {
    int64_t first, step, count;
    int64_t start, stride, dilation, taps;
    int64_t first_tap, tap_step;
};

// The outputs of a line that need these inputs only.
inline Range inner_pixels(const Line& line, Range inputs) {
    const int64_t first = max(0, ceil_div(max(0, inputs.first - line.start), line.stride));
    const int64_t room = inputs.last - line.start - (line.taps - 1) * line.dilation - 1;
    const int64_t last = room < 0 ? 0 : min(line.count, room / line.stride + 1);
    return {min(first, line.count), max(min(first, line.count), last)};
}

// Whether L1 can hold a line of each of this many pixels at once. It has few places for lines whose addresses differ by
// multiples of a power of two.
inline bool fit_in_cache(int64_t pixels, int64_t bytes_apart) {
    return pixels <= cache_bytes / max(line_bytes, bytes_apart & -bytes_apart);
}

// GCC considers a function that only prefetches free of effects, and drops its calls.
#define FASTCONV_PREFETCHES inline __attribute__((always_inline))

template <class T>
FASTCONV_PREFETCHES void prefetch_pixel(const T* pixel, int64_t channels) {
    for (int64_t c = 0; c < channels; c += line_of<T>) __builtin_prefetch(pixel + c, 0, 2);
}

// Whether rows of all channels have a sane size.
inline bool has_sane_rows(const Conv2dProblem& problem, int64_t depth) {
    const Conv2d& conv = problem.conv;
    if (conv.N == 0 || conv.P == 0 || conv.Q == 0 || problem.pool.P == 0 || problem.pool.Q == 0) return false;
    constexpr double limit = 1 << 21;  // pixels of some 512 bytes
    const double extent_h = double(conv.R) * double(conv.dilation_h);
    const double width =
        double(conv.Q) * double(conv.stride_w) + double(conv.S) * double(conv.dilation_w) + double(conv.W);
    const double window = double(problem.pool.window_h) * double(problem.pool.dilation_h);
    const double rows = (window < double(conv.P) ? window : double(conv.P)) * double(conv.stride_h) + extent_h;
    return rows * width * double(depth) < limit && double(conv.R) * double(conv.S) * double(depth) < limit;
}

constexpr const char* depthwise_condition = "one channel in and one out of each group, of two groups or more";

inline bool is_depthwise(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    return conv.groups > 1 && conv.C == conv.groups && conv.K == conv.groups && has_sane_rows(problem, 1);
}

constexpr int64_t good_depth = 32, most_depth = 1024;
constexpr const char* grouped_condition = "two groups or more that write too few channels for a vector";

// Whether groups leave vectors of their own outputs partly empty. Others are faster from good_depth on, if they take
// the groups: the direct kernel needs a quarter of a vector, and the kernels of live gradients some channels.
template <class T, bool backward>
bool has_few_channels(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    if (conv.groups < 2 || conv.C == 0 || conv.K == 0) return false;
    const Groups groups(conv, backward);
    const bool alone = groups.outputs * least_direct_share < lanes<T> || conv.C / conv.groups < least_live_channels;
    const bool few = alone || groups.outputs < lanes<T>;
    return !groups.depthwise() && few && groups.inputs <= (alone ? most_depth : good_depth) &&
           has_sane_rows(problem, groups.inputs);
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
