// Winograd's algorithms F(out x out, taps x taps) (Lavin and Gray, arXiv 1509.09308).
//
// They compute `out` outputs of a convolution of stride 1 from out + taps - 1 products along each axis, at the cost of
// some digits. For each tile of x, of dy and of y, with matrices given by the points where polynomials are evaluated:
//
//   y  = A^T [sum over c: (G w G^T) * (B^T x B)] A          dw = G^T [sum over tiles: (A dy A^T) * (B^T x B)] G
//
// The points are 0, 1, -1, 2, -2, 1/2, -1/2 for tiles of 8, and 0, 1, -1, 1/2, -2 for tiles of 6, which lose fewer
// digits than 0, 1, -1, 2, -2; and infinity.
#pragma once

#include "micro_kernel.h"
#include "pack.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// The transforms of one row or column. Element i is read from in(i) and passed to out(i, value).
//   input            B^T: tile to tile
//   filter           G: taps to tile             filter_gradient  G^T: tile to taps
//   output           A^T: tile to outputs        output_gradient  A: outputs to tile
template <int TILE, int TAPS>
struct Winograd;

template <>
struct Winograd<8, 5> {
    static constexpr int tile = 8, taps = 5, outputs = 4, positions = 64;
    using V = Vec<float>;

    template <class In, class Out>
    static void input(const In& in, const Out& out) {
        const V d0 = in(0), d1 = in(1), d2 = in(2), d3 = in(3), d4 = in(4), d5 = in(5), d6 = in(6), d7 = in(7);
        out(0, d0 - d6 + 5.25f * (d4 - d2));
        out(7, d7 - d1 + 5.25f * (d3 - d5));
        const V even1 = d2 + d6 - 4.25f * d4, odd1 = d1 + d5 - 4.25f * d3;
        out(1, even1 + odd1);
        out(2, even1 - odd1);
        const V even2 = d6 + 0.25f * d2 - 1.25f * d4, odd2 = 0.5f * d1 - 2.5f * d3 + 2.0f * d5;
        out(3, even2 + odd2);
        out(4, even2 - odd2);
        const V even3 = d6 + 4.0f * d2 - 5.0f * d4, odd3 = 2.0f * d1 - 2.5f * d3 + 0.5f * d5;
        out(5, even3 + odd3);
        out(6, even3 - odd3);
    }
    template <class In, class Out>
    static void filter(const In& in, const Out& out) {
        const V g0 = in(0), g1 = in(1), g2 = in(2), g3 = in(3), g4 = in(4);
        out(0, g0);
        out(7, g4);
        const V even1 = g0 + g2 + g4, odd1 = g1 + g3;
        out(1, (-2.0f / 9) * (even1 + odd1));
        out(2, (-2.0f / 9) * (even1 - odd1));
        const V even2 = g0 + 4.0f * g2 + 16.0f * g4, odd2 = 2.0f * g1 + 8.0f * g3;
        out(3, (1.0f / 90) * (even2 + odd2));
        out(4, (1.0f / 90) * (even2 - odd2));
        const V even3 = g0 + 0.25f * g2 + 0.0625f * g4, odd3 = 0.5f * g1 + 0.125f * g3;
        out(5, (32.0f / 45) * (even3 + odd3));
        out(6, (32.0f / 45) * (even3 - odd3));
    }
    template <class In, class Out>
    static void output(const In& in, const Out& out) {
        const V m1 = in(1), m2 = in(2), m3 = in(3), m4 = in(4), m5 = in(5), m6 = in(6);
        const V sum1 = m1 + m2, sum2 = m3 + m4, sum3 = m5 + m6;
        const V difference1 = m1 - m2, difference2 = m3 - m4, difference3 = m5 - m6;
        out(0, in(0) + sum1 + sum2 + sum3);
        out(1, difference1 + 2.0f * difference2 + 0.5f * difference3);
        out(2, sum1 + 4.0f * sum2 + 0.25f * sum3);
        out(3, in(7) + difference1 + 8.0f * difference2 + 0.125f * difference3);
    }
    template <class In, class Out>
    static void output_gradient(const In& in, const Out& out) {
        const V y0 = in(0), y1 = in(1), y2 = in(2), y3 = in(3);
        out(0, y0);
        out(7, y3);
        const V even1 = y0 + y2, odd1 = y1 + y3;
        out(1, even1 + odd1);
        out(2, even1 - odd1);
        const V even2 = y0 + 4.0f * y2, odd2 = 2.0f * y1 + 8.0f * y3;
        out(3, even2 + odd2);
        out(4, even2 - odd2);
        const V even3 = y0 + 0.25f * y2, odd3 = 0.5f * y1 + 0.125f * y3;
        out(5, even3 + odd3);
        out(6, even3 - odd3);
    }
    template <class In, class Out>
    static void filter_gradient(const In& in, const Out& out) {
        const V u1 = in(1), u2 = in(2), u3 = in(3), u4 = in(4), u5 = in(5), u6 = in(6);
        const V sum1 = (-2.0f / 9) * (u1 + u2), difference1 = (-2.0f / 9) * (u1 - u2);
        const V sum2 = (1.0f / 90) * (u3 + u4), difference2 = (1.0f / 90) * (u3 - u4);
        const V sum3 = (32.0f / 45) * (u5 + u6), difference3 = (32.0f / 45) * (u5 - u6);
        out(0, in(0) + sum1 + sum2 + sum3);
        out(1, difference1 + 2.0f * difference2 + 0.5f * difference3);
        out(2, sum1 + 4.0f * sum2 + 0.25f * sum3);
        out(3, difference1 + 8.0f * difference2 + 0.125f * difference3);
        out(4, in(7) + sum1 + 16.0f * sum2 + 0.0625f * sum3);
    }
};

template <>
struct Winograd<6, 3> {
    static constexpr int tile = 6, taps = 3, outputs = 4, positions = 36;
    using V = Vec<float>;

    template <class In, class Out>
    static void input(const In& in, const Out& out) {
        const V d1 = in(1), d2 = in(2), d3 = in(3), d4 = in(4);
        const V even = d4 - d2, odd = d3 - d1;
        out(0, in(0) + d4 - 2.0f * d2 + 1.5f * odd);
        out(1, d4 - d1 + 0.5f * d2 + 2.5f * d3);
        out(2, d4 + d1 + 0.5f * d3 - 2.5f * d2);
        out(3, even + 2.0f * odd);
        out(4, even - 0.5f * odd);
        out(5, in(5) + d1 - 2.0f * d3 + 1.5f * even);
    }
    template <class In, class Out>
    static void filter(const In& in, const Out& out) {
        const V g0 = in(0), g1 = in(1), g2 = in(2);
        out(0, g0);
        out(1, (1.0f / 3) * (g0 + g2 + g1));
        out(2, (-1.0f / 3) * (g0 + g2 - g1));
        out(3, (-16.0f / 15) * (g0 + 0.5f * g1 + 0.25f * g2));
        out(4, (1.0f / 15) * (g0 - 2.0f * g1 + 4.0f * g2));
        out(5, g2);
    }
    template <class In, class Out>
    static void output(const In& in, const Out& out) {
        const V m1 = in(1), m2 = in(2), m3 = in(3), m4 = in(4);
        const V sum = m1 + m2, difference = m1 - m2;
        out(0, in(0) + sum + m3 + m4);
        out(1, difference + 0.5f * m3 - 2.0f * m4);
        out(2, sum + 0.25f * m3 + 4.0f * m4);
        out(3, in(5) + difference + 0.125f * m3 - 8.0f * m4);
    }
    template <class In, class Out>
    static void output_gradient(const In& in, const Out& out) {
        const V y0 = in(0), y1 = in(1), y2 = in(2), y3 = in(3);
        out(0, y0);
        out(1, y0 + y2 + (y1 + y3));
        out(2, y0 + y2 - (y1 + y3));
        out(3, y0 + 0.5f * y1 + 0.25f * y2 + 0.125f * y3);
        out(4, y0 - 2.0f * y1 + 4.0f * y2 - 8.0f * y3);
        out(5, y3);
    }
    template <class In, class Out>
    static void filter_gradient(const In& in, const Out& out) {
        const V u1 = in(1), u2 = in(2), u3 = (16.0f / 15) * in(3), u4 = (1.0f / 15) * in(4);
        const V sum = (1.0f / 3) * (u1 + u2), difference = (1.0f / 3) * (u1 - u2);
        out(0, in(0) + difference - u3 + u4);
        out(1, sum - 0.5f * u3 - 2.0f * u4);
        out(2, in(5) + difference - 0.25f * u3 + 4.0f * u4);
    }
};

// Transforms rows and columns. `transform` is one of those above, from FROM to TO elements. in(i, j) returns an
// element, out(i, j, value) takes one.
template <int FROM, int TO, class Transform, class In, class Out>
inline void transform2d(const Transform& transform, const In& in, const Out& out) {
    Vec<float> half[TO][FROM];
#pragma GCC unroll 8
    for (int j = 0; j < FROM; ++j)
        transform([&](int i) { return in(i, j); }, [&](int i, Vec<float> value) { half[i][j] = value; });
    for (int i = 0; i < TO; ++i)
        transform([&](int j) { return half[i][j]; }, [&](int j, Vec<float> value) { out(i, j, value); });
}

// Passes a static member function template as an argument.
#define FASTCONV_TRANSFORM(function) [](const auto& in, const auto& out) { function(in, out); }

// Calls use(the algorithm for this problem's kernel).
template <class Use>
auto with_algorithm(const Conv2d& conv, const Use& use) {
    return conv.R == 5 ? use(Winograd<8, 5>()) : use(Winograd<6, 3>());
}

// The conditions of all directions, in words.
#define FASTCONV_WINOGRAD_CONDITION \
    "3x3 or 5x5 kernels of stride and dilation 1 in one group, 16 channels and filters or more, no float64"

// Whether an algorithm exists for a problem, and channels are enough to fill vectors and to pay for the transforms.
inline bool winograd_takes(DType dtype, const Conv2d& conv) {
    return !in_double(dtype) && (conv.R == 5 || conv.R == 3) && conv.S == conv.R && conv.groups == 1 &&
           conv.stride_h == 1 && conv.stride_w == 1 && conv.dilation_h == 1 && conv.dilation_w == 1 && conv.N > 0 &&
           conv.C >= 16 && conv.K >= 16 && conv.P >= 6 && conv.Q >= 6 &&
           double(conv.Q + 8) * double(conv.C + conv.K) < (1 << 20) && double(conv.C) * double(conv.K) < (1 << 22);
}

using T = float;
constexpr int W = lanes<T>;
constexpr int64_t block_size = max_vectors * W;  // channels computed together

// Elements from one position of transformed tiles or filters to the next. Padded, since distances that are multiples of
// 4 KiB would let all positions compete for a few sets of the caches.
constexpr int64_t position_step(int64_t elements) { return elements + 16; }

// Packs `count` filters from first_k on, `channels` channels from first_c on, to [c][r][s][W].
inline void gather_filters(const Tensor& w, int64_t first_k, int64_t count, int64_t first_c, int64_t channels, T* out) {
    const int64_t positions = w.size[2] * w.size[3], step = w.stride[3];
    with_elements<T>(w, [&](const auto* data) {
        data += first_k * w.stride[0] + first_c * w.stride[1];
        if ((step == 1 || step == -1) && w.stride[2] == w.size[3] * step) {  // neighbors in memory, maybe reversed
            const int64_t back = step == 1 ? 0 : positions - 1;
            for (int64_t c = 0; c < channels; ++c)
                copy2d(count, positions, data + c * w.stride[1] - back, w.stride[0], 1,
                       out + (c * positions + back) * W, 1, step * W);
        } else {
            for (int64_t i = 0; i < positions; ++i)
                copy2d(count, channels, data + i / w.size[3] * w.stride[2] + i % w.size[3] * step, w.stride[0],
                       w.stride[1], out + i * W, 1, positions * W);
        }
    });
}

// The inverse: [c][r][s][W] to these filters.
inline void scatter_filters(const T* in, const Tensor& w, int64_t first_k, int64_t count, int64_t first_c,
                            int64_t channels) {
    const int64_t positions = w.size[2] * w.size[3];
    with_elements<T>(w, [&](auto* data) {
        data += first_k * w.stride[0] + first_c * w.stride[1];
        if (w.stride[3] == 1 && w.stride[2] == w.size[3]) {
            for (int64_t c = 0; c < channels; ++c)
                copy2d(positions, count, in + c * positions * W, W, 1, data + c * w.stride[1], 1, w.stride[0]);
        } else {
            for (int64_t i = 0; i < positions; ++i)
                copy2d(channels, count, in + i * W, positions * W, 1,
                       data + i / w.size[3] * w.stride[2] + i % w.size[3] * w.stride[3], w.stride[1], w.stride[0]);
        }
    });
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
