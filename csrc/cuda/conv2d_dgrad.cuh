// dgrad: the gradient of a convolution's input.
//
//     dx[n, c, h, w] = sum over k, r, s of g[n, k, p, q] * w[k, c, r, s]
//     for h + pad_h = p * stride_h + r * dilation_h, w + pad_w = q * stride_w + s * dilation_w
//
// g is the gradient of the convolution's output, computed from dy and the code while it is loaded (GradientView). Only
// taps with r * dilation = h + pad (mod stride) contribute. So the pixels of dx are split into phases, by h and w
// modulo the stride; all pixels of a phase have the same taps. A block stays in one phase:
//
//   rows     pixels (n, h, w) of dx, h = phase_h + i * stride_h, w = phase_w + j * stride_w
//   columns  channels c of one group
//   steps    filters of that group and the phase's taps (k, r, s); (r, s, k) if dy's channels lie together
//
// A phase without taps has no steps, so its pixels get zeros.
#pragma once

#include "conv2d_mma.cuh"
#include "conv2d_views.cuh"

namespace fastconv::cuda {

FASTCONV_HOST_DEVICE int greatest_common_divisor(int a, int b) {
    while (b) {
        const int rest = a % b;
        a = b, b = rest;
    }
    return a;
}

// A phase along one axis. Its taps are r = first + i * tap_step for i < taps. At tap i, its pixel number j reads output
// p = start + j - i * output_step.
struct Phase {
    int first = 0, taps = 0, start = 0;

    Phase() = default;
    FASTCONV_DEVICE Phase(int phase, int pad, int dilation, int stride, int size, int tap_step) {
        while (first < size && first < tap_step && (phase + pad - first * dilation) % stride != 0) ++first;
        if (first >= size || first >= tap_step) return;
        taps = ceil_div(size - first, tap_step);
        start = (phase + pad - first * dilation) / stride;
    }
};

// A block's phase, computed by one thread into shared memory.
struct BlockPhase {
    Phase h, w;
    Taps taps;  // with filters in place of channels
    int steps;
};

template <class T>
struct DgradParameters {
    Source<GradientView<T>, Access::lines | Access::step_vectors> gradient;
    Source<WeightView<T>, Access::lines | Access::steps | Access::line_vectors> w;
    T* dx;
    Geometry conv;
    Strides dy_strides, w_strides, dx_strides;
    Pixels pixels;  // of the largest phase
    int rows, row_tiles, column_tiles, phases_h, phases_w;
    int tap_step_h, tap_step_w, output_step_h, output_step_w;
    bool filters_inside;
    bool along_columns, vectors;

    // The odometers of tensor-core kernels along a phase's steps.
    template <class Tile>
    FASTCONV_DEVICE StepCounter gradient_counter(const BlockPhase& phase) const {
        return counter<Tile>(phase, {dy_strides.c, 0, 0, 0, 1},
                             {-output_step_h * dy_strides.h, -output_step_h, 0, 0, 0},
                             {-output_step_w * dy_strides.w, 0, -output_step_w, 0, 0});
    }
    template <class Tile>
    FASTCONV_DEVICE StepCounter w_counter(const BlockPhase& phase) const {
        return counter<Tile>(phase, {w_strides.n, 0, 0, 0, 0}, {tap_step_h * w_strides.h, 0, 0, 0, 0},
                             {tap_step_w * w_strides.w, 0, 0, 0, 0});
    }

private:
    template <class Tile>
    FASTCONV_DEVICE StepCounter counter(const BlockPhase& phase, const Coord& one_k, const Coord& one_r,
                                        const Coord& one_s) const {
        const Axis k{conv.filters, one_k}, r{phase.h.taps, one_r}, s{phase.w.taps, one_s};
        return filters_inside ? StepCounter(k, s, r, Tile::steps, Tile::chunk_stride(Tile::columns))
                              : StepCounter(s, r, k, Tile::steps, Tile::chunk_stride(Tile::columns));
    }
};

template <class Tile>
struct DgradMemory {
    GemmMemory<Tile> gemm;
    BlockPhase* phase;
    StepCounter* counters;  // the gradient's and the weight's, for tensor cores
    FASTCONV_HOST_DEVICE explicit DgradMemory(simt::Shared& shared)
        : gemm(shared),
          phase(shared.take<BlockPhase>(1)),
          counters(Tile::tensor_cores ? shared.take<StepCounter>(2) : nullptr) {}
};

template <class T, class Tile>
FASTCONV_KERNEL_BOUNDS(Tile::threads, Tile::fewer_blocks)
conv2d_dgrad_kernel(const DgradParameters<T> d) {
    using Acc = typename Tile::Acc;
    simt::Shared shared = simt::block_shared();
    const DgradMemory<Tile> all(shared);
    const GemmMemory<Tile>& memory = all.gemm;
    const Geometry& conv = d.conv;
    int rest = simt::block().x;
    const int first_column = rest % d.column_tiles * Tile::columns;
    rest /= d.column_tiles;
    const int first_row = rest % d.row_tiles * Tile::rows;
    rest /= d.row_tiles;
    const int phase_w = rest % d.phases_w;
    rest /= d.phases_w;
    const int phase_h = rest % d.phases_h, group = rest / d.phases_h, first_k = group * conv.filters;

    if (simt::thread() == 0) {
        BlockPhase phase;
        phase.h = Phase(phase_h, conv.pad_h, conv.dilation_h, conv.stride_h, conv.R, d.tap_step_h);
        phase.w = Phase(phase_w, conv.pad_w, conv.dilation_w, conv.stride_w, conv.S, d.tap_step_w);
        phase.taps = Taps(conv.filters, phase.h.taps, phase.w.taps, d.filters_inside);
        phase.steps = conv.filters * phase.h.taps * phase.w.taps;
        *all.phase = phase;
        if constexpr (Tile::tensor_cores) {
            all.counters[0] = d.template gradient_counter<Tile>(phase);
            all.counters[1] = d.template w_counter<Tile>(phase);
        }
    }
    simt::sync();
    const auto pixel_of = [&](int row, Pixel& pixel, int& h, int& w) {
        pixel = d.pixels.at(first_row + row);
        h = phase_h + pixel.p * conv.stride_h, w = phase_w + pixel.q * conv.stride_w;
        return first_row + row < d.rows && h < conv.H && w < conv.W;
    };
    for (int i = simt::thread(); i < Tile::rows; i += Tile::threads) {
        Pixel pixel;
        int h, w;
        const bool there = pixel_of(i, pixel, h, w);
        const int p = all.phase->h.start + pixel.p, q = all.phase->w.start + pixel.q;
        memory.rows.put(i, there ? Coord{d.dy_strides.at(pixel.n, first_k, p, q), p, q, pixel.n, first_k} : no_coord());
    }
    const int64_t first_w = d.w_strides.at(first_k, 0, all.phase->h.first, all.phase->w.first);
    for (int i = simt::thread(); i < Tile::columns; i += Tile::threads)
        memory.columns.put(i, first_column + i < conv.channels
                                  ? Coord{first_w + (first_column + i) * d.w_strides.c, 0, 0, 0, 0}
                                  : no_coord());
    Sums<Tile> sums;
    if constexpr (Tile::tensor_cores)
        gemm(sums, memory, d.gradient, all.counters[0], d.w, all.counters[1], 0, all.phase->steps);
    else
        gemm(sums, memory, d.gradient, d.w, 0, all.phase->steps, [&](int step, Coord& gradient_coord, Coord& w_coord) {
            const Tap t = all.phase->taps.at(step);
            const int p = -t.r * d.output_step_h, q = -t.s * d.output_step_w;
            gradient_coord = {d.dy_strides.at(0, t.c, p, q), p, q, 0, t.c};
            w_coord = {d.w_strides.at(t.c, 0, t.r * d.tap_step_h, t.s * d.tap_step_w), 0, 0, 0, 0};
        });

    sums.store(memory.buffer, [](int) { return Acc(0); });
    for (int i = simt::thread(); i < Tile::rows; i += Tile::threads) {
        Pixel pixel;
        int h, w;
        const bool there = pixel_of(i, pixel, h, w);
        memory.rows.put(i, there ? Coord{d.dx_strides.at(pixel.n, 0, h, w), 0, 0, 0, 0} : no_coord());
    }
    for (int i = simt::thread(); i < Tile::columns; i += Tile::threads) {
        const int column = first_column + i;
        memory.columns.put(i, column < conv.channels
                                  ? Coord{(group * conv.channels + column) * d.dx_strides.c, 0, 0, 0, 0}
                                  : no_coord());
    }
    simt::sync();
    write_tile(d.dx, memory, d.along_columns, d.vectors, [](Acc sum) { return T(sum); });
}

}  // namespace fastconv::cuda
