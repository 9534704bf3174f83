// Rows of the gradient of a convolution's output, before what its epilogue does: from the gradient dy behind the
// epilogue and the code, for the kernels that take it as a dense image.
#pragma once

#include "pack.h"
#include "pool_window.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

// An image whose rows can be packed: x itself or, where `code` has data, the gradient of the convolution's output.
struct Image {
    Tensor x;  // or dy
    Tensor code;
    const Conv2dProblem* problem;  // null for x

    // Elements of room that pack() needs beside.
    int64_t scratch_size() const { return problem ? problem->pool.Q * problem->conv.K : 0; }

    // As pack_rows does it: rows h0 .. h0 + rows and columns w0 .. w0 + width of image n as [rows][width][channels],
    // zeros outside.
    template <class T>
    void pack(int64_t n, int64_t h0, int64_t rows, int64_t w0, int64_t width, T* out, T* scratch) const {
        if (!code.data) return pack_rows(x, n, h0, rows, w0, width, x.size[1], out);
        const Conv2d& conv = problem->conv;
        const Pool2d& pool = problem->pool;
        const int64_t K = conv.K, last_h = min(conv.P, h0 + rows);
        std::memset(out, 0, size_t(rows * width * K) * sizeof(T));
        const int64_t reach = (pool.window_h - 1) * pool.dilation_h;
        const int64_t first_p = max(0, ceil_div(max(0, h0 + pool.pad_h - reach), pool.stride_h));
        for (int64_t p = first_p; p < pool.P && p * pool.stride_h - pool.pad_h < last_h; ++p) {
            const T* dy = gradient_row(n, p, scratch);
            const int64_t top = p * pool.stride_h - pool.pad_h;
            for (int64_t i = 0; i < pool.window_h; ++i) {
                const int64_t h = top + i * pool.dilation_h;
                if (h < max(0, h0) || h >= last_h) continue;
                T* row = out + (h - h0) * width * K;
                if (problem->epilogue == Epilogue::relu) spread_relu(n, h, dy, w0, width, row);
                else spread_windows(n, p, i, dy, w0, width, row);
            }
        }
    }

private:
    // Row p of dy as NHWC.
    template <class T>
    const T* gradient_row(int64_t n, int64_t p, T* scratch) const {
        const int64_t K = problem->conv.K, place = n * x.stride[0] + p * x.stride[2];
        if (x.stride[1] == 1 && x.stride[3] == K && element_bytes(x.dtype) == sizeof(T))
            return static_cast<const T*>(x.data) + place;
        with_elements<T>(x, [&](const auto* data) {
            copy2d(problem->pool.Q, K, data + place, x.stride[3], x.stride[1], scratch, K, 1);
        });
        return scratch;
    }

    // Adds dy, where matches(code) says so, to the pixel `to`.
    template <class T, class Matches>
    static void add_pixel(int64_t K, const T* dy, const uint8_t* codes, const Matches& matches, T* to) {
        int64_t k = 0;
        if constexpr (sizeof(T) == 4)
            for (; k + lanes<T> <= K; k += lanes<T>)
                store(to + k, load(to + k) + select(matches(load_bytes<T>(codes + k)), load(dy + k), Vec<T>{}));
        for (; k < K; ++k) to[k] += select(matches(int(codes[k])), dy[k], T(0));
    }

    template <class T>
    void spread_relu(int64_t n, int64_t p, const T* dy, int64_t w0, int64_t width, T* row) const {
        const Conv2d& conv = problem->conv;
        const uint8_t* codes = static_cast<const uint8_t*>(code.data) + (n * conv.P + p) * ceil_div(conv.Q, 8) * conv.K;
        for (int64_t q = max(0, w0); q < min(conv.Q, w0 + width); ++q) {
            const int bit = 1 << (q % 8);
            add_pixel(
                conv.K, dy + q * conv.K, codes + q / 8 * conv.K, [=](auto byte) { return (byte & bit) != 0; },
                row + (q - w0) * conv.K);
        }
    }

    // Row i of the windows in row p.
    template <class T>
    void spread_windows(int64_t n, int64_t p, int64_t i, const T* dy, int64_t w0, int64_t width, T* row) const {
        const Pool2d& pool = problem->pool;
        const int64_t K = problem->conv.K, last = min(problem->conv.Q, w0 + width);
        const uint8_t* codes = static_cast<const uint8_t*>(code.data) + (n * pool.P + p) * pool.Q * K;
        for (int64_t q = 0; q < pool.Q; ++q)
            for (int64_t j = 0; j < pool.window_w; ++j) {
                const int64_t w = q * pool.stride_w - pool.pad_w + j * pool.dilation_w;
                if (w < max(0, w0) || w >= last) continue;
                const int position = int(i * pool.window_w + j);
                add_pixel(
                    K, dy + q * K, codes + q * K, [=](auto winner) { return winner == position; }, row + (w - w0) * K);
            }
    }
};

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
