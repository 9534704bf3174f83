// The convolution kernels' index spaces: strides, pixels (n, p, q) and taps (c, r, s).
#pragma once

#include <cstdint>

#include "../common/geometry.h"
#include "../simt/simt.h"
#include "divider.cuh"

namespace fastconv::cuda {

template <class Count>
FASTCONV_HOST_DEVICE Count ceil_div(Count a, int64_t b) {
    return Count((a + b - 1) / b);
}
FASTCONV_HOST_DEVICE int least(int a, int b) { return a < b ? a : b; }

struct Strides {
    int64_t n = 0, c = 0, h = 0, w = 0;

    Strides() = default;
    explicit Strides(const Tensor& t) : n(t.stride[0]), c(t.stride[1]), h(t.stride[2]), w(t.stride[3]) {}
    FASTCONV_HOST_DEVICE int64_t at(int in, int ic, int ih, int iw) const { return in * n + ic * c + ih * h + iw * w; }
};

struct Pixel {
    int n, p, q;
};

// Pixels numbers pixels in the order (n, p, q).
struct Pixels {
    Divider height, width;

    Pixels() = default;
    Pixels(int height, int width) : height(height), width(width) {}
    FASTCONV_HOST_DEVICE Pixel at(int i) const {
        const int row = width.split(i);
        int p = row;
        const int n = height.split(p);
        return {n, p, i};
    }
};

struct Tap {
    int c, r, s;
};

// Taps numbers taps in the order (r, s, c), for tensors whose channels lie together, or (c, r, s).
struct Taps {
    Divider outer, inner;
    bool channels_inside = false;

    Taps() = default;
    FASTCONV_HOST_DEVICE Taps(int channels, int rows, int columns, bool channels_inside)
        : outer(channels_inside ? columns * channels : rows * columns),
          inner(channels_inside ? channels : columns),
          channels_inside(channels_inside) {}
    FASTCONV_HOST_DEVICE Tap at(int i) const {
        const int a = outer.split(i);
        const int b = inner.split(i);
        return channels_inside ? Tap{i, a, b} : Tap{a, b, i};
    }
};

// Conv2d in 32 bits. Channels and filters are those of one group.
struct Geometry {
    int N, H, W, K, R, S, P, Q, channels, filters, groups;
    int stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;

    Geometry() = default;
    explicit Geometry(const Conv2d& c)
        : N(int(c.N)),
          H(int(c.H)),
          W(int(c.W)),
          K(int(c.K)),
          R(int(c.R)),
          S(int(c.S)),
          P(int(c.P)),
          Q(int(c.Q)),
          channels(int(c.C / c.groups)),
          filters(int(c.K / c.groups)),
          groups(int(c.groups)),
          stride_h(int(c.stride_h)),
          stride_w(int(c.stride_w)),
          pad_h(int(c.pad_h)),
          pad_w(int(c.pad_w)),
          dilation_h(int(c.dilation_h)),
          dilation_w(int(c.dilation_w)) {}
};

// Pool2d in 32 bits.
struct PoolGeometry {
    int window_h, window_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, P, Q;

    PoolGeometry() = default;
    explicit PoolGeometry(const Pool2d& p)
        : window_h(int(p.window_h)),
          window_w(int(p.window_w)),
          stride_h(int(p.stride_h)),
          stride_w(int(p.stride_w)),
          pad_h(int(p.pad_h)),
          pad_w(int(p.pad_w)),
          dilation_h(int(p.dilation_h)),
          dilation_w(int(p.dilation_w)),
          P(int(p.P)),
          Q(int(p.Q)) {}
};

}  // namespace fastconv::cuda
