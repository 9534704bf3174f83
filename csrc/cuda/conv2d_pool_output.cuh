// What the convolution kernels with a pool make of their windows, and how they write it:
//
//     best   = max over the window's positions inside of the convolution's output; the first of equal values wins,
//              among NaNs the last
//     y      = best > 0 or NaN: best; else 0; -inf where nothing is in the window
//     code   = the winner's position i * window_w + j, or dead where y is neither above 0 nor NaN
//
// A thread writes two neighbouring filters, so that a byte of two codes has one writer.
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
// The last bits of position -1.
static_assert(dead == 0xff && dead_nibble == 0xf);

template <class T>
struct PoolOutput {
    T* y;
    uint8_t* code;  // or null
    Strides strides;
    PoolGeometry pool;
    int filters;    // of a group
    int64_t bytes;  // of a group's codes at a pixel
    int groups;
    bool nibbles, pairs;  // pairs: two neighbouring filters of y are written at once

    // Where y and the codes of a group's filters at a pooled pixel begin.
    struct Place {
        int64_t y, code;
    };
    FASTCONV_DEVICE Place place(int group, int n, int pp, int qq) const {
        return {strides.at(n, group * filters, pp, qq),
                (((int64_t(n) * pool.P + pp) * pool.Q + qq) * groups + group) * bytes};
    }
    // Writes filters k and k + 1 (if there is one) of the group; k is even.
    template <class Acc>
    FASTCONV_DEVICE void write(const Place& place, int k, Winner<Acc> first, Winner<Acc> second) const {
        first.relu(), second.relu();
        const bool both = k + 1 < filters;
        T* const to = y + place.y + k * strides.c;
        if (pairs) {
            simt::store(to, simt::Pack<T, 2>{{T(first.best), T(second.best)}});
        } else {
            to[0] = T(first.best);
            if (both) to[strides.c] = T(second.best);
        }
        if (!code) return;
        if (nibbles) {
            const int high = both ? second.position & 15 : dead_nibble;
            code[place.code + (k >> 1)] = uint8_t((first.position & 15) | high << 4);
        } else {
            code[place.code + k] = uint8_t(first.position);
            if (both) code[place.code + k + 1] = uint8_t(second.position);
        }
    }
};

}  // namespace fastconv::cuda
