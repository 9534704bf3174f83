// The shapes that all kernels work with, on every device. They are plain data without functions, since kernel sources
// are compiled once per instruction set and must not share inline code (see cpu/vec.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastconv {

enum class DType { float32 = 0, float64 = 1, uint8 = 2, int32 = 3, float16 = 4, bfloat16 = 5 };

// A 4-D array in any memory format. Sizes and strides are in elements, in the order N, C, H, W.
struct Tensor {
    void* data = nullptr;
    DType dtype = DType::float32;
    int64_t size[4] = {0, 0, 0, 0};
    int64_t stride[4] = {0, 0, 0, 0};
};

// y[n, k, p, q] = bias[k] + sum over c, r, s of
//     x[n, c, p * stride_h - pad_h + r * dilation_h, q * stride_w - pad_w + s * dilation_w] * w[k, c, r, s]
// C and K count all groups. pad_h and pad_w are the padding at the top and on the left. The padding below and on the
// right follows from P and Q.
struct Conv2d {
    int64_t N, C, H, W, K, R, S, P, Q;
    int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
};

// Window (p, q) covers rows p * stride_h - pad_h + i * dilation_h of the pool's input, i < window_h. P and Q are the
// pooled size.
struct Pool2d {
    int64_t window_h = 1, window_w = 1, stride_h = 1, stride_w = 1;
    int64_t pad_h = 0, pad_w = 0, dilation_h = 1, dilation_w = 1;
    int64_t P = 0, Q = 0;
};

// What follows the convolution within the same kernel, and so what its `code` holds:
//   no activation   nothing; no code
//   relu            one bit per output: byte [n, p, q / 8, k], bit q % 8 is set where y > 0 or NaN
//   relu, pooled    one byte per pooled output, NHWC: row-major position of the winner in its window,
//                   or `dead` where the pooled value is neither above 0 nor NaN. On GPUs 4 bits for
//                   windows of up to `max_nibble_positions` (cuda/codes.h), with `dead_nibble`
// An output is dead if no gradient passes back through it. The backward kernels read dy unchanged where the code is not
// dead, so the activation's local gradient must be 0 or 1 everywhere. ReLU6 would fit. LeakyReLU would need a factor in
// each kernel, and a code cannot tell SiLU's gradient.
enum class Activation { none, relu };
struct Epilogue {
    Activation activation = Activation::none;
    bool pooled = false;  // by Conv2dProblem::pool, behind the activation
};

constexpr int dead = 255;                                   // the code of a window through which no gradient passes
constexpr int max_positions = 254;                          // largest window that a one-byte code can describe
constexpr int dead_nibble = 15, max_nibble_positions = 15;  // the same for 4 bits

// Layout says how memory holds a tensor's channels, those of all groups.
struct Layout {
    bool channels_inside = false;  // several channels, neighbors in memory (channels_last)
    int vector_bytes = 1;          // packs of this many bytes along a group's channels are aligned; at most 16
};

// Layouts of the tensors by role: x is also dx, w is also dw, y is also dy.
struct Layouts {
    Layout x, w, y, code;
};

// Conv2dProblem holds all that decides the choice of an implementation, its workspace and its launch.
struct Conv2dProblem {
    DType dtype;
    Conv2d conv;
    Epilogue epilogue;
    Pool2d pool;  // without a pool: 1x1 windows, so (pool.P, pool.Q) is (conv.P, conv.Q)
    int threads;
    bool tf32 = false;  // on GPUs: float32 operands may be rounded to TF32, for tensor cores
    Layouts layouts = {};
};

// The tensors of each direction. Null data: not given (bias, code) or not wanted (code, dw, dbias).
struct FpropArgs {
    Tensor x, w, bias, y, code;
};
struct DgradArgs {
    Tensor dy, code, w, dx;
};
struct WgradArgs {
    Tensor x, dy, code, dw, dbias;
};

}  // namespace fastconv
