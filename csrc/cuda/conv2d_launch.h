// What the launchers of all directions share: which problems are refused, how operands lie in memory, and the choice
// of the types that a kernel is compiled for.
#pragma once

#include <initializer_list>
#include <string>

#include "codes.h"
#include "conv2d_choice.h"
#include "kernels.h"

namespace fastconv::cuda {

// The kernels count pixels, taps and blocks in 32 bits; only offsets into memory have 64.
struct Count {
    const char* what;
    int64_t value;
};
constexpr int64_t most_counted = (int64_t(1) << 31) - 1024;  // a tile more still fits
constexpr int64_t most_reached = (int64_t(1) << 30) - 1;     // places in an image, padding included

inline std::string refuse(std::initializer_list<Count> counts, int64_t most) {
    for (const Count& count : counts)
        if (count.value > most)
            return std::string("conv2d on CUDA: ") + count.what + " = " + std::to_string(count.value) +
                   " is not supported: at most " + std::to_string(most);
    return "";
}

// "" or why this problem is refused.
inline std::string refuse(const Conv2dProblem& problem) {
    const Conv2d& c = problem.conv;
    const Pool2d& pool = problem.pool;
    // One after the other, so that no product overflows.
    const std::string places =
        refuse({{"the height with padding", c.H + 2 * c.pad_h + (c.P - 1) * c.stride_h + c.R * c.dilation_h},
                {"the width with padding", c.W + 2 * c.pad_w + (c.Q - 1) * c.stride_w + c.S * c.dilation_w},
                {"the height that pooling windows cover",
                 pool.pad_h + pool.P * pool.stride_h + pool.window_h * pool.dilation_h},
                {"the width that pooling windows cover",
                 pool.pad_w + pool.Q * pool.stride_w + pool.window_w * pool.dilation_w},
                {"N", c.N},
                {"C", c.C},
                {"K", c.K}},
               most_reached);
    if (!places.empty()) return places;
    const std::string images =
        refuse({{"H * W", c.H * c.W}, {"P * Q", c.P * (c.Q + 7)}, {"R * S", c.R * c.S}}, most_counted);
    if (!images.empty()) return images;
    return refuse({{"N * H * W", c.N * c.H * c.W},
                   {"N * P * Q", c.N * c.P * (c.Q + 7)},
                   {"R * S * C", c.R * c.S * (c.C + 1)},
                   {"R * S * K", c.R * c.S * (c.K + 1)}},
                  most_counted);
}

// Whether a tensor's channels lie together in memory (and there are several).
inline bool channels_last(const Tensor& t) { return t.size[1] > 1 && t.stride[1] == 1; }

// Whether `vector` neighbouring channels can be read or written at once, beginning at every `vector`-th one of a
// group with that many channels.
inline bool channel_vectors(const Tensor& t, int channels, int vector, int element_bytes) {
    if (!channels_last(t) || channels % vector ||
        reinterpret_cast<uintptr_t>(t.data) % uintptr_t(vector * element_bytes))
        return false;
    for (const int d : {0, 2, 3})
        if (t.size[d] > 1 && t.stride[d] % vector) return false;
    return true;
}

// The same for a gradient, which is read together with its code; that has its channels together anyway, a byte or
// (of a pool) 4 bits each.
inline bool gradient_vectors(const Conv2dProblem& problem, const Tensor& dy, const Tensor& code, int filters,
                             int vector, int element_bytes) {
    const bool nibbles = problem.epilogue == Epilogue::relu_max_pool && has_nibbles(problem.pool);
    const int code_bytes = nibbles ? vector / 2 : vector;
    const bool code_fits =
        problem.epilogue == Epilogue::none || reinterpret_cast<uintptr_t>(code.data) % uintptr_t(code_bytes) == 0;
    return code_fits && channel_vectors(dy, filters, vector, element_bytes);
}

// Whether a weight's taps lie in memory in the order in which Taps counts them.
inline bool in_order_of_taps(const Tensor& w, bool channels_inside) {
    int64_t dense = 1;
    const std::initializer_list<int> inside_out = {3, 2, 1, 0}, channels_first = {1, 3, 2, 0};
    for (const int d : channels_inside ? channels_first : inside_out) {
        if (w.size[d] > 1 && w.stride[d] != dense) return false;
        dense *= w.size[d];
    }
    return true;
}

template <class Memory>
int shared_bytes() {
    simt::Shared size;
    const Memory memory(size);
    return size.bytes();
}

}  // namespace fastconv::cuda
