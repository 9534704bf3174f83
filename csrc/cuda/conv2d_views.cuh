// A View reads N neighboring elements of a tensor at a Coord (conv2d_gemm.cuh), converted to accumulators.
//
// N > 1 runs along the channels; the launcher has checked that they lie together and are aligned. Where copied(coord)
// holds, elements can be copied unchanged: from at(coord) if inside(coord), else as zeros.
#pragma once

#include "codes.h"
#include "conv2d_gemm.cuh"

namespace fastconv::cuda {

template <int N, class T>
FASTCONV_DEVICE simt::Pack<Accumulator<T>, N> load_as_accumulators(const T* from) {
    const auto pack = simt::load<N>(from);
    simt::Pack<Accumulator<T>, N> result;
    FASTCONV_UNROLL
    for (int v = 0; v < N; ++v) result[v] = Accumulator<T>(pack[v]);
    return result;
}

template <int N, class Acc>
FASTCONV_DEVICE simt::Pack<Acc, N> zeros() {
    simt::Pack<Acc, N> result;
    FASTCONV_UNROLL
    for (int v = 0; v < N; ++v) result[v] = Acc(0);
    return result;
}

// An image surrounded by zeros. Coord: offset in elements, (h, w) the pixel. With `with_ones`, a coordinate with k != 0
// stands for the constant 1, whose row of wgrad's product is the gradient of the bias.
template <class T, bool with_ones = false>
struct ImageView {
    const T* data;
    int H, W;

    FASTCONV_DEVICE static bool copied(const Coord& coord) { return !with_ones || coord.k == 0; }
    FASTCONV_DEVICE const T* at(const Coord& coord) const { return data + coord.offset; }
    FASTCONV_DEVICE bool inside(const Coord& coord) const {
        return unsigned(coord.h) < unsigned(H) && unsigned(coord.w) < unsigned(W);
    }
    template <int N>
    FASTCONV_DEVICE simt::Pack<Accumulator<T>, N> get(const Coord& coord) const {
        auto result = zeros<N, Accumulator<T>>();
        if (with_ones && coord.k != 0) result[0] = Accumulator<T>(1);
        else if (inside(coord)) result = load_as_accumulators<N>(data + coord.offset);
        return result;
    }
};

// A weight. Coord: offset in elements.
template <class T>
struct WeightView {
    const T* data;

    FASTCONV_DEVICE static bool copied(const Coord&) { return true; }
    FASTCONV_DEVICE const T* at(const Coord& coord) const { return data + coord.offset; }
    FASTCONV_DEVICE bool inside(const Coord& coord) const { return coord.h >= 0; }
    template <int N>
    FASTCONV_DEVICE simt::Pack<Accumulator<T>, N> get(const Coord& coord) const {
        return inside(coord) ? load_as_accumulators<N>(data + coord.offset) : zeros<N, Accumulator<T>>();
    }
};

// The gradient of the convolution's output, computed on the fly from dy, the gradient of the block's output, and the
// code:
//     none      dy[n, k, p, q]
//     bits      dy[n, k, p, q] where the bit is set, else 0
//     winners   the sum of dy over the windows whose winner is (p, q)
// Coord: offset of dy[n, k, p, q] (none and bits); (h, w) is (p, q); n and k.
template <class T>
struct GradientView {
    const T* dy;
    const uint8_t* code;
    CodeKind kind;
    int P, Q;
    int64_t code_n, code_p, code_q;  // bytes from n to n, p to p, q to q in the code; for relu, code_q is 8 pixels
    Strides strides;                 // from here on: for a pool
    PoolGeometry pool;
    Divider stride_h, stride_w, dilation_h, dilation_w;
    bool nibbles;
    Divider filled;  // nibbles: gives the number of groups before filter k that were padded to whole bytes

    GradientView() = default;
    GradientView(const Conv2dProblem& problem, const Tensor& dy_tensor, const Tensor& code_tensor)
        : dy(static_cast<const T*>(dy_tensor.data)),
          code(static_cast<const uint8_t*>(code_tensor.data)),
          kind(code_kind(problem.epilogue)),
          P(int(problem.conv.P)),
          Q(int(problem.conv.Q)),
          strides(dy_tensor),
          pool(problem.pool),
          stride_h(pool.stride_h),
          stride_w(pool.stride_w),
          dilation_h(pool.dilation_h),
          dilation_w(pool.dilation_w),
          nibbles(has_nibbles(problem.pool)) {
        const Conv2d& conv = problem.conv;
        code_q = kind == CodeKind::bits ? conv.K : conv.groups * group_code_bytes(problem);
        code_p = (conv.Q + 7) / 8 * code_q;
        code_n = conv.P * code_p;
        filled = Divider(int(conv.K / conv.groups % 2 ? conv.K / conv.groups : conv.K));
    }

    FASTCONV_DEVICE bool copied(const Coord&) const { return kind == CodeKind::none; }
    FASTCONV_DEVICE const T* at(const Coord& coord) const { return dy + coord.offset; }
    FASTCONV_DEVICE bool inside(const Coord& coord) const {
        return unsigned(coord.h) < unsigned(P) && unsigned(coord.w) < unsigned(Q);
    }
    template <int N>
    FASTCONV_DEVICE simt::Pack<Accumulator<T>, N> get(const Coord& coord) const {
        auto result = zeros<N, Accumulator<T>>();
        if (!inside(coord)) return result;
        if (kind == CodeKind::none) {
            result = load_as_accumulators<N>(dy + coord.offset);
        } else if (kind == CodeKind::bits) {
            const auto gradient = load_as_accumulators<N>(dy + coord.offset);
            const auto bits =
                simt::load<N>(code + coord.n * code_n + coord.h * code_p + (coord.w >> 3) * code_q + coord.k);
            FASTCONV_UNROLL
            for (int v = 0; v < N; ++v)
                if (bits[v] >> (coord.w & 7) & 1) result[v] = gradient[v];
        } else {
            each_window(stride_h, dilation_h, coord.h + pool.pad_h, pool.P, pool.window_h, [&](int p, int i) {
                each_window(stride_w, dilation_w, coord.w + pool.pad_w, pool.Q, pool.window_w, [&](int q, int j) {
                    // 32-bit offsets save registers. They suffice: a pool at most doubles N * P * Q.
                    const unsigned pixel = (unsigned(coord.n) * unsigned(pool.P) + unsigned(p)) * unsigned(pool.Q);
                    const int won = winners<N>(code + (pixel + unsigned(q)) * code_q, coord.k, i * pool.window_w + j);
                    const auto gradient = simt::load<N>(dy + strides.at(coord.n, coord.k, p, q));
                    FASTCONV_UNROLL
                    for (int v = 0; v < N; ++v)
                        if (won >> v & 1) result[v] += Accumulator<T>(gradient[v]);
                });
            });
        }
        return result;
    }

private:
    // Bit v is set if filter k + v, v < N, has its winner at `position`. k is a multiple of N.
    template <int N>
    FASTCONV_DEVICE int winners(const uint8_t* pixel, int k, int position) const {
        int bits = 0;
        if (nibbles) {
            const int first = N > 1 ? k : k + filled.divide(k);  // vectors are used for even numbers of filters only
            const auto pairs = simt::load<(N + 1) / 2>(pixel + (first >> 1));
            FASTCONV_UNROLL
            for (int v = 0; v < N; ++v)
                if ((pairs[v / 2] >> (N > 1 ? v : first) % 2 * 4 & 15) == position) bits |= 1 << v;
        } else {
            const auto codes = simt::load<N>(pixel + k);
            FASTCONV_UNROLL
            for (int v = 0; v < N; ++v)
                if (codes[v] == position) bits |= 1 << v;
        }
        return bits;
    }
    // Calls visit(window, position in it) for the windows that hold `place`, counted from the edge of the padding.
    template <class Visit>
    FASTCONV_DEVICE static void each_window(const Divider& stride, const Divider& dilation, int place, int windows,
                                            int size, const Visit& visit) {
        for (int window = least(stride.divide(place), windows - 1); window >= 0; --window) {
            int distance = place - window * stride.divisor;
            const int position = dilation.split(distance);
            if (position >= size) return;
            if (distance == 0) visit(window, position);
        }
    }
};

}  // namespace fastconv::cuda
