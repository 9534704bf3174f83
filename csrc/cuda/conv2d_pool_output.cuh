// ReLU and max-pool over a window of the convolution's output, and the store of y and the code:
//
//   best   = max over the window's positions inside the convolution's output. The first of equal values wins, among
//          NaNs the last
//   y      = best if best > 0 or NaN, else 0; -inf for an empty window
//   code   = the winner's position i * window_w + j, or dead if y is neither positive nor NaN
//
// A thread writes two or more neighboring filters, so each byte of two 4-bit codes has one writer.
#pragma once

#include "conv2d_geometry.cuh"

namespace fastconv::cuda {

template <class Acc>
struct Winner {
    Acc best = -Acc(INFINITY);
    int position = -1;

    FASTCONV_DEVICE void see(Acc value, int at) {
        if (position < 0 || value > best || value != value) best = value, position = at;
    }
    FASTCONV_DEVICE void relu() {
        if (position >= 0 && best <= Acc(0)) best = Acc(0), position = -1;
    }
};
// Position -1, cut to 8 or 4 bits, is the code of a dead window.
static_assert(dead == 0xff && dead_nibble == 0xf);

template <class T>
struct PoolOutput {
    T* y;
    uint8_t* code;  // may be null
    Strides strides;
    PoolGeometry pool;
    int filters;    // per group
    int64_t bytes;  // per group, of codes at a pixel
    int groups;
    bool nibbles, vectors, code_vectors;  // vectors, code_vectors: y, 4-bit codes are stored at once

    // Offsets of a group's y and codes at a pooled pixel.
    struct Place {
        int64_t y, code;
    };
    FASTCONV_DEVICE Place place(int group, int n, int pp, int qq) const {
        return {strides.at(n, group * filters, pp, qq),
                (((int64_t(n) * pool.P + pp) * pool.Q + qq) * groups + group) * bytes};
    }
    // Writes filters k to k + N - 1, up to the group's last. k is a multiple of N, N a multiple of 2.
    template <int N, class Acc>
    FASTCONV_DEVICE void write(const Place& place, int k, Winner<Acc> (&winners)[N]) const {
        T* const to = y + place.y + k * strides.c;
        simt::Pack<T, N> values;
        FASTCONV_UNROLL
        for (int v = 0; v < N; ++v) {
            winners[v].relu();
            values[v] = T(winners[v].best);
        }
        if (vectors) {
            simt::store(to, values);
        } else {
            FASTCONV_UNROLL
            for (int v = 0; v < N; ++v)
                if (k + v < filters) to[v * strides.c] = values[v];
        }
        if (code && nibbles) {
            uint8_t* const pairs = code + place.code + k / 2;
            simt::Pack<uint8_t, N / 2> bytes;
            FASTCONV_UNROLL
            for (int v = 0; v < N / 2; ++v) {
                const int high = k + 2 * v + 1 < filters ? winners[2 * v + 1].position & 15 : dead_nibble;
                bytes[v] = uint8_t((winners[2 * v].position & 15) | high << 4);
            }
            if (code_vectors) {
                simt::store(pairs, bytes);
            } else {
                FASTCONV_UNROLL
                for (int v = 0; v < N / 2; ++v)
                    if (k + 2 * v < filters) pairs[v] = bytes[v];
            }
        } else if (code) {
            FASTCONV_UNROLL
            for (int v = 0; v < N; ++v)
                if (k + v < filters) code[place.code + k + v] = uint8_t(winners[v].position);
        }
    }
};

}  // namespace fastconv::cuda
