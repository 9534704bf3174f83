// ReLU over dense arrays. Forward keeps one bit per element for backward.
//
// A thread takes V neighboring elements: 16 bytes, or one element where an address is not aligned. 8 / V neighboring
// lanes combine their bits to a byte of the mask, so no two threads write the same byte.
#pragma once

#include "items.h"

namespace fastconv::cuda {

template <class T, int V>
FASTCONV_KERNEL relu_fprop_kernel(const T* x, T* y, uint8_t* mask, int64_t count) {
    using W = Accumulator<T>;
    const int64_t step = item_step() * V;
    // All threads of a block run the same number of iterations, since a byte of the mask needs all of its lanes.
    int64_t i = first_item() * V;
    for (int64_t first = int64_t(simt::block().x) * item_threads * V; first < count; first += step, i += step) {
        unsigned live = 0;
        if (i + V <= count) {
            simt::Pack<T, V> values = simt::load<V>(x + i);
            FASTCONV_UNROLL
            for (int v = 0; v < V; ++v) {
                const W value = W(values[v]);
                live |= unsigned(!(value <= W(0))) << v;  // NaN is live
                if (value < W(0)) values[v] = T(0.0f);    // -0.0 and NaN pass
            }
            simt::store(y + i, values);
        } else {
            // At most one thread gets here. Unrolled, this loop was most of the code and took a third of the registers.
            FASTCONV_NO_UNROLL
            for (int v = 0; i + v < count; ++v) {
                const T value = x[i + v];
                live |= unsigned(!(W(value) <= W(0))) << v;
                y[i + v] = W(value) < W(0) ? T(0.0f) : value;
            }
        }
        if (mask) {
            constexpr int lanes = V < 8 ? 8 / V : 1;
            const int part = simt::lane() % lanes;
            unsigned byte = live << part * V;
            FASTCONV_UNROLL
            for (int other = 1; other < lanes; other *= 2) byte |= simt::shuffle_xor(byte, other);
            if (part == 0 && i < count) mask[i / 8] = uint8_t(byte);
        }
    }
}

template <class T, int V>
FASTCONV_KERNEL relu_bprop_kernel(const T* dy, const uint8_t* mask, T* dx, int64_t count) {
    const int64_t step = item_step() * V;
    for (int64_t i = first_item() * V; i < count; i += step) {
        const unsigned live = unsigned(mask[i / 8]) >> i % 8;
        if (i + V <= count) {
            simt::Pack<T, V> values = simt::load<V>(dy + i);
            FASTCONV_UNROLL
            for (int v = 0; v < V; ++v)
                if (!(live >> v & 1)) values[v] = T(0.0f);
            simt::store(dx + i, values);
        } else {
            FASTCONV_NO_UNROLL
            for (int v = 0; i + v < count; ++v) dx[i + v] = live >> v & 1 ? dy[i + v] : T(0.0f);
        }
    }
}

}  // namespace fastconv::cuda
