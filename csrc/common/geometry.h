// The shapes that every kernel, on any device, works from. Plain data, no functions: kernel sources
// are compiled once per instruction set and must not share inline code (see cpu/vec.h).
#pragma once

#include <cstddef>
#include <cstdint>

namespace fastconv {

enum class DType { float32 = 0, float64 = 1, uint8 = 2, int32 = 3, float16 = 4, bfloat16 = 5 };

// A 4-D array in any memory format. Sizes and strides in elements, always in the order N, C, H, W.
struct Tensor {
    void* data = nullptr;
    DType dtype = DType::float32;
    int64_t size[4] = {0, 0, 0, 0};
    int64_t stride[4] = {0, 0, 0, 0};
};

// y[n, k, p, q] = bias[k] + sum over c, r, s of
//     x[n, c, p * stride_h - pad_h + r * dilation_h, q * stride_w - pad_w + s * dilation_w] * w[k, c, r, s]
// C and K count all groups; pad_h and pad_w are the padding at the top and on the left, what lies
// below and to the right follows from P and Q.
struct Conv2d {
    int64_t N, C, H, W, K, R, S, P, Q;
    int64_t stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, groups;
};

// Window (p, q) covers rows p * stride_h - pad_h + i * dilation_h of what is pooled, i < window_h.
// P and Q are the pooled size.
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
// An output is dead where no gradient passes back through it. The backward kernels read dy where the code is not dead,
// and take it as it is: the activation's local gradient has to be 0 or 1 everywhere. ReLU6 would fit; LeakyReLU needs a
// factor in each kernel, and SiLU cannot be told from a code.
enum class Activation { none, relu };
struct Epilogue {
    Activation activation = Activation::none;
    bool pooled = false;  // by Conv2dProblem::pool, behind the activation
};

constexpr int dead = 255;                                   // the code of a window through which no gradient passes
constexpr int max_positions = 254;                          // largest window that a one-byte code can describe
constexpr int dead_nibble = 15, max_nibble_positions = 15;  // the same for 4 bits

// How a tensor's channels lie in memory, of all groups.
struct Layout {
    bool channels_inside = false;  // there are several, and neighbours are neighbours in memory (channels_last)
    int vector_bytes = 1;          // at most 16: packs of that many bytes along a group's channels are aligned
};

// By the role of a tensor: x is also dx, w dw and y dy.
struct Layouts {
    Layout x, w, y, code;
};

// All that the choice of an implementation, its workspace and its launch may look at.
struct Conv2dProblem {
    DType dtype;
    Conv2d conv;
    Epilogue epilogue;
    Pool2d pool;  // where nothing is pooled: 1x1 windows, so that (pool.P, pool.Q) is (conv.P, conv.Q)
    int threads;
    bool tf32 = false;  // on GPUs: float32 operands may be rounded to TF32, for tensor cores
    Layouts layouts = {};
};

// What a kernel of a convolution is called with. Null data: not given (bias, code) or not wanted (code, dw, dbias).
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
