// max_pool2d, forward and backward, for tensors of any strides.
//
// The first of equal values wins, among NaNs the last. A window without input gives -inf and has no winner. Backward
// gathers: an element of dx reads the windows that cover it. So no two threads add to one element, and every sum has
// one order.
//
// Threads run along the innermost axis of the tensor that is written: channels, or columns. With V > 1 all tensors are
// channels_last, and a thread takes V neighboring channels, 16 bytes of values.
#pragma once

#include <cmath>

#include "../common/geometry.h"
#include "divider.cuh"
#include "items.h"

namespace fastconv::cuda {

// A max-pool's tensors as the kernels take them: plain pointers, strides in elements.
template <class T, class Code>
struct MaxPool2d {
    const T* in;       // forward: x; backward: dy
    const Code* code;  // of the pooled size; written by forward
    T* out;            // forward: y; backward: dx
    int64_t in_stride[4], code_stride[4], out_stride[4];
    int64_t H, W;     // of x and dx
    int64_t size[4];  // of the tensor that is written
    bool channels_inner;
    Pool2d pool;
};

template <class Code>
constexpr Code no_winner = sizeof(Code) == 1 ? Code(dead) : Code(-1);

struct Place {
    int64_t n, c, h, w;
};

template <int V, class Problem>
FASTCONV_DEVICE Place place_of(int64_t item, const Problem& t) {
    if (t.channels_inner) {
        const Division c = divide(item, V == 1 ? t.size[1] : t.size[1] / V), w = divide(c.quotient, t.size[3]),
                       h = divide(w.quotient, t.size[2]);
        return {h.quotient, c.remainder * V, h.remainder, w.remainder};
    }
    const Division w = divide(item, t.size[3]), h = divide(w.quotient, t.size[2]), c = divide(h.quotient, t.size[1]);
    return {c.quotient, c.remainder, h.remainder, w.remainder};
}

FASTCONV_DEVICE int64_t offset_of(const Place& at, const int64_t (&stride)[4]) {
    return at.n * stride[0] + at.c * stride[1] + at.h * stride[2] + at.w * stride[3];
}

// The positions i of a window with 0 <= start + i * dilation < size. Divides at borders only.
struct Range {
    int first, last;
};
FASTCONV_DEVICE Range inside(int64_t start, int64_t dilation, int64_t window, int64_t size) {
    int64_t first = 0, last = window;
    if (start < 0) first = (-start + dilation - 1) / dilation;
    if (start + (window - 1) * dilation >= size) last = start >= size ? 0 : (size - start + dilation - 1) / dilation;
    return {int(first < window ? first : window), int(last)};
}

template <class T, class Code, int V>
FASTCONV_KERNEL max_pool2d_fprop_kernel(MaxPool2d<T, Code> t, Code* codes, int64_t items) {
    using F = Accumulator<T>;
    const Pool2d& pool = t.pool;
    const int64_t row_step = pool.dilation_h * t.in_stride[2], column_step = pool.dilation_w * t.in_stride[3];
    const int window_w = int(pool.window_w);
    for (int64_t item = first_item(); item < items; item += item_step()) {
        const Place at = place_of<V>(item, t);
        const int64_t h = at.h * pool.stride_h - pool.pad_h, w = at.w * pool.stride_w - pool.pad_w;
        const Range rows = inside(h, pool.dilation_h, pool.window_h, t.H);
        const Range columns = inside(w, pool.dilation_w, pool.window_w, t.W);
        const bool empty = rows.first >= rows.last || columns.first >= columns.last;
        const Code first = empty ? no_winner<Code> : Code(rows.first * window_w + columns.first);
        F best[V];
        Code winner[V];
        FASTCONV_UNROLL
        for (int v = 0; v < V; ++v) best[v] = -F(INFINITY), winner[v] = first;
        const T* row = t.in + at.n * t.in_stride[0] + at.c * t.in_stride[1] +
                       (h + rows.first * pool.dilation_h) * t.in_stride[2] +
                       (w + columns.first * pool.dilation_w) * t.in_stride[3];
        for (int i = rows.first; i < rows.last; ++i, row += row_step) {
            const T* from = row;
            int position = i * window_w + columns.first;
            for (int j = columns.first; j < columns.last; ++j, ++position, from += column_step) {
                const simt::Pack<T, V> values = simt::load<V>(from);
                FASTCONV_UNROLL
                for (int v = 0; v < V; ++v) {
                    const F value = F(values[v]);
                    if (value > best[v] || value != value) best[v] = value, winner[v] = Code(position);
                }
            }
        }
        simt::Pack<T, V> values;
        FASTCONV_UNROLL
        for (int v = 0; v < V; ++v) values[v] = T(best[v]);
        simt::store(t.out + offset_of(at, t.out_stride), values);
        if (codes) {
            simt::Pack<Code, V> winners;
            FASTCONV_UNROLL
            for (int v = 0; v < V; ++v) winners[v] = winner[v];
            simt::store(codes + offset_of(at, t.code_stride), winners);
        }
    }
}

// The windows along one axis that cover a place, from the first on. `position` is the place's position in the window.
// It is valid if `rest` is 0, since a dilated window skips places.
struct Cover {
    int window, last;
    int position, rest;
};
FASTCONV_DEVICE Cover cover(int64_t place, int64_t stride, int64_t dilation, int64_t window, int64_t windows) {
    const int64_t reach = place - (window - 1) * dilation;  // start of the window that ends here; place >= 0
    const int64_t first = reach <= 0 ? 0 : divide(reach + stride - 1, stride).quotient;
    const int64_t last = divide(place, stride).quotient;
    if (first > last || first >= windows) return {0, -1, 0, 0};
    const Division position = divide(place - first * stride, dilation);
    return {int(first), int(last < windows ? last : windows - 1), int(position.quotient), int(position.remainder)};
}
// Moves to the next window. `step` is the pool's stride divided by its dilation.
FASTCONV_DEVICE void advance(Cover& c, const Division& step, int64_t dilation) {
    ++c.window;
    c.position -= int(step.quotient);
    c.rest -= int(step.remainder);
    if (c.rest < 0) c.rest += int(dilation), --c.position;
}

template <class T, class Code, int V>
FASTCONV_KERNEL max_pool2d_bprop_kernel(MaxPool2d<T, Code> t, int64_t P, int64_t Q, int64_t items) {
    using F = Accumulator<T>;
    const Pool2d& pool = t.pool;
    const Division step_h = divide(pool.stride_h, pool.dilation_h), step_w = divide(pool.stride_w, pool.dilation_w);
    for (int64_t item = first_item(); item < items; item += item_step()) {
        const Place at = place_of<V>(item, t);
        F sum[V];
        FASTCONV_UNROLL
        for (int v = 0; v < V; ++v) sum[v] = F(0);
        Cover p = cover(at.h + pool.pad_h, pool.stride_h, pool.dilation_h, pool.window_h, P);
        const Cover q0 = cover(at.w + pool.pad_w, pool.stride_w, pool.dilation_w, pool.window_w, Q);
        const T* dy = t.in + at.n * t.in_stride[0] + at.c * t.in_stride[1] + p.window * t.in_stride[2] +
                      q0.window * t.in_stride[3];
        const Code* code = t.code + at.n * t.code_stride[0] + at.c * t.code_stride[1] + p.window * t.code_stride[2] +
                           q0.window * t.code_stride[3];
        for (; p.window <= p.last;
             advance(p, step_h, pool.dilation_h), dy += t.in_stride[2], code += t.code_stride[2]) {
            if (p.rest != 0) continue;
            const T* g = dy;
            const Code* winner = code;
            const int first = p.position * int(pool.window_w);
            for (Cover q = q0; q.window <= q.last;
                 advance(q, step_w, pool.dilation_w), g += t.in_stride[3], winner += t.code_stride[3]) {
                if (q.rest != 0) continue;
                const Code position = Code(first + q.position);
                const simt::Pack<Code, V> winners = simt::load<V>(winner);
                const simt::Pack<T, V> values = simt::load<V>(g);
                FASTCONV_UNROLL
                for (int v = 0; v < V; ++v)
                    if (winners[v] == position) sum[v] += F(values[v]);
            }
        }
        simt::Pack<T, V> values;
        FASTCONV_UNROLL
        for (int v = 0; v < V; ++v) values[v] = T(sum[v]);
        simt::store(t.out + offset_of(at, t.out_stride), values);
    }
}

// --- 2x2 windows without overlap in contiguous planes ---------------------------------------------------------------

// An item is 16 bytes of each of two rows of x, above half as many windows. A row of windows has `chunks` items, a
// plane `rows` rows of windows. A last row of dx without windows counts as one.
struct Planes2x2 {
    int64_t H, W, P, Q;
    Divider chunks, rows;
    int items;
};

struct Place2x2 {
    int plane, row, chunk;
};
FASTCONV_DEVICE Place2x2 place_of(int64_t item, const Planes2x2& t) {
    int chunk = int(item), row = t.chunks.split(chunk);
    const int plane = t.rows.split(row);
    return {plane, row, chunk};
}
// Offsets of an item in x and dx, and in y, dy and the code.
FASTCONV_DEVICE int64_t large_offset(const Place2x2& at, const Planes2x2& t, int V) {
    return (at.plane * t.H + at.row * 2) * t.W + at.chunk * V;
}
FASTCONV_DEVICE int64_t small_offset(const Place2x2& at, const Planes2x2& t, int V) {
    return (at.plane * t.P + at.row) * t.Q + at.chunk * (V / 2);
}

template <class T>
FASTCONV_KERNEL max_pool2d_fprop_2x2_kernel(const T* x, T* y, uint8_t* codes, Planes2x2 t) {
    using F = Accumulator<T>;
    constexpr int V = 16 / int(sizeof(T)), windows = V / 2;
    for (int64_t item = first_item(); item < t.items; item += item_step()) {
        const Place2x2 at = place_of(item, t);
        const T* from = x + large_offset(at, t, V);
        const simt::Pack<T, V> upper = simt::load<V>(from), lower = simt::load<V>(from + t.W);
        simt::Pack<T, windows> values;
        simt::Pack<uint8_t, windows> winners;
        FASTCONV_UNROLL
        for (int v = 0; v < windows; ++v) {
            const F window[4] = {F(upper[2 * v]), F(upper[2 * v + 1]), F(lower[2 * v]), F(lower[2 * v + 1])};
            F best = window[0];
            int winner = 0;
            FASTCONV_UNROLL
            for (int i = 1; i < 4; ++i)
                if (window[i] > best || window[i] != window[i]) best = window[i], winner = i;
            values[v] = T(best), winners[v] = uint8_t(winner);
        }
        const int64_t to = small_offset(at, t, V);
        simt::store(y + to, values);
        if (codes) simt::store(codes + to, winners);
    }
}

template <class T>
FASTCONV_KERNEL max_pool2d_bprop_2x2_kernel(const T* dy, const uint8_t* codes, T* dx, Planes2x2 t) {
    constexpr int V = 16 / int(sizeof(T)), windows = V / 2;
    for (int64_t item = first_item(); item < t.items; item += item_step()) {
        const Place2x2 at = place_of(item, t);
        simt::Pack<T, V> upper, lower;
        FASTCONV_UNROLL
        for (int v = 0; v < V; ++v) upper[v] = lower[v] = T(0.0f);
        if (at.row < t.P) {
            const int64_t from = small_offset(at, t, V);
            const simt::Pack<T, windows> values = simt::load<windows>(dy + from);
            const simt::Pack<uint8_t, windows> winners = simt::load<windows>(codes + from);
            FASTCONV_UNROLL
            for (int v = 0; v < windows; ++v) {
                if (winners[v] == 0) upper[2 * v] = values[v];
                if (winners[v] == 1) upper[2 * v + 1] = values[v];
                if (winners[v] == 2) lower[2 * v] = values[v];
                if (winners[v] == 3) lower[2 * v + 1] = values[v];
            }
        }
        T* to = dx + large_offset(at, t, V);
        simt::store(to, upper);
        if (at.row * 2 + 1 < t.H) simt::store(to + t.W, lower);
    }
}

}  // namespace fastconv::cuda
