// The launchers of max_pool2d.
#include "max_pool2d.cuh"

#include <climits>

#include "check.h"
#include "kernels.h"

namespace fastconv::cuda {
namespace {

int64_t count(const Tensor& t) { return t.size[0] * t.size[1] * t.size[2] * t.size[3]; }

bool is_contiguous(const Tensor& t) {
    int64_t dense = 1;
    for (int i = 3; i >= 0; dense *= t.size[i--])
        if (t.size[i] > 1 && t.stride[i] != dense) return false;
    return true;
}

// Whether V neighboring channels can be read or written at once at every pixel.
bool has_packs(const Tensor& t, int V, int bytes) {
    if (t.stride[1] != 1 || t.size[1] % V || !is_aligned(t.data, V * bytes)) return false;
    for (const int i : {0, 2, 3})
        if (t.size[i] > 1 && t.stride[i] % V) return false;
    return true;
}

template <class T, class Code>
MaxPool2d<T, Code> make(const Tensor& in, const Tensor& code, const Tensor& out, const Tensor& x, const Pool2d& pool) {
    MaxPool2d<T, Code> t;
    t.in = static_cast<const T*>(in.data);
    t.code = static_cast<const Code*>(code.data);
    t.out = static_cast<T*>(out.data);
    for (int i = 0; i < 4; ++i) {
        t.in_stride[i] = in.stride[i], t.code_stride[i] = code.stride[i], t.out_stride[i] = out.stride[i];
        t.size[i] = out.size[i];
    }
    t.H = x.size[2], t.W = x.size[3];
    // If columns have a stride of 1 too, there is one channel or one column.
    t.channels_inner = out.stride[1] == 1 && (out.stride[3] != 1 || out.size[3] == 1);
    t.pool = pool;
    return t;
}

int64_t row_pairs(const Tensor& x) { return (x.size[2] + 1) / 2; }

// Whether the kernels for 2x2 windows take a problem: whole chunks, no window beyond the input, and an int counts the
// items.
template <class T>
bool is_planes_2x2(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d& pool) {
    constexpr int V = 16 / int(sizeof(T));
    return pool.window_h == 2 && pool.window_w == 2 && pool.stride_h == 2 && pool.stride_w == 2 && pool.pad_h == 0 &&
           pool.pad_w == 0 && pool.dilation_h == 1 && pool.dilation_w == 1 && x.size[3] % V == 0 &&
           pool.Q * 2 == x.size[3] && pool.P * 2 <= x.size[2] && is_contiguous(x) && is_contiguous(y) &&
           (!code.data || is_contiguous(code)) && is_aligned(x.data, 16) && is_aligned(y.data, 8) &&
           is_aligned(code.data, V / 2) && x.size[0] * x.size[1] <= INT_MAX &&
           x.size[0] * x.size[1] * row_pairs(x) <= INT_MAX / (x.size[3] / V);
}

Planes2x2 planes(const Tensor& x, const Pool2d& pool, int64_t rows, int V) {
    const int64_t chunks = x.size[3] / V, items = x.size[0] * x.size[1] * rows * chunks;
    return {x.size[2], x.size[3], pool.P, pool.Q, Divider(int(chunks)), Divider(int(rows)), int(items)};
}

template <class T, class Code, int V>
void fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d& pool, simt::Stream stream) {
    const auto t = make<T, Code>(x, code, y, x, pool);
    const int64_t items = count(y) / V;
    return check(simt::launch(max_pool2d_fprop_kernel<T, Code, V>, item_blocks(items), item_threads, 0, stream, t,
                              static_cast<Code*>(code.data), items));
}

template <class T, class Code, int V>
void bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, simt::Stream stream) {
    const auto t = make<T, Code>(dy, code, dx, dx, pool);
    const int64_t items = count(dx) / V;
    return check(simt::launch(max_pool2d_bprop_kernel<T, Code, V>, item_blocks(items), item_threads, 0, stream, t,
                              pool.P, pool.Q, items));
}

bool byte_codes(const Pool2d& pool) { return pool.window_h * pool.window_w <= max_positions; }

}  // namespace

void max_pool2d_fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d& pool, simt::Stream stream) {
    if (count(y) == 0) return;
    with_type(x.dtype, [&](auto type) {
        using T = decltype(type);
        constexpr int V = 16 / int(sizeof(T));
        if (!byte_codes(pool)) return fprop<T, int32_t, 1>(x, y, code, pool, stream);
        if (is_planes_2x2<T>(x, y, code, pool)) {
            const Planes2x2 t = planes(x, pool, pool.P, V);
            return check(simt::launch(max_pool2d_fprop_2x2_kernel<T>, item_blocks(t.items), item_threads, 0, stream,
                                      static_cast<const T*>(x.data), static_cast<T*>(y.data),
                                      static_cast<uint8_t*>(code.data), t));
        }
        const bool packs =
            has_packs(x, V, sizeof(T)) && has_packs(y, V, sizeof(T)) && (!code.data || has_packs(code, V, 1));
        return packs ? fprop<T, uint8_t, V>(x, y, code, pool, stream) : fprop<T, uint8_t, 1>(x, y, code, pool, stream);
    });
}

void max_pool2d_bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d& pool, simt::Stream stream) {
    if (count(dx) == 0) return;
    with_type(dy.dtype, [&](auto type) {
        using T = decltype(type);
        constexpr int V = 16 / int(sizeof(T));
        if (!byte_codes(pool)) return bprop<T, int32_t, 1>(dy, code, dx, pool, stream);
        if (is_planes_2x2<T>(dx, dy, code, pool)) {
            const Planes2x2 t = planes(dx, pool, row_pairs(dx), V);
            return check(simt::launch(max_pool2d_bprop_2x2_kernel<T>, item_blocks(t.items), item_threads, 0, stream,
                                      static_cast<const T*>(dy.data), static_cast<const uint8_t*>(code.data),
                                      static_cast<T*>(dx.data), t));
        }
        const bool packs = has_packs(dx, V, sizeof(T)) && has_packs(dy, V, sizeof(T)) && has_packs(code, V, 1);
        return packs ? bprop<T, uint8_t, V>(dy, code, dx, pool, stream)
                     : bprop<T, uint8_t, 1>(dy, code, dx, pool, stream);
    });
}

}  // namespace fastconv::cuda
