// Which kernel, and which tile of it, takes a problem; the first that applies.
#pragma once

#include "conv2d_mma.cuh"
#include "kernels.h"

namespace fastconv::cuda {

// Calls run(a value of the exact kernels' tile that this many columns fill best).
template <class Acc, class Run>
auto with_exact_tile(int columns, const Run& run) {
    if (columns > 32) return run(typename Tiles<Acc>::wide());
    if (columns > 8) return run(typename Tiles<Acc>::middle());
    return run(typename Tiles<Acc>::narrow());
}

// Whether a product of elements T with so many columns is for tensor cores: 16-bit types are, and float is where it may
// be rounded to TF32, unless columns are so few that most of a tile would be empty, as in depthwise convolutions.
template <class T>
bool on_tensor_cores(bool tf32, int columns) {
    return columns > 8 && (sizeof(T) == 2 || (sizeof(T) == 4 && tf32));
}

// Whether it is a first layer, which has kernels of its own (conv2d_first.cuh) where it fits these (conv2d_first.h).
template <class T>
bool first_layer(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    return on_tensor_cores<T>(problem.tf32, int(conv.K)) && conv.groups == 1 && conv.C > 0 && conv.C < 8;
}

// Calls run(a value of the tile's type) for a product of elements T with so many columns.
template <class T, class Run>
auto with_tile(bool tf32, int columns, const Run& run) {
    if constexpr (sizeof(T) <= 4) {
        if (on_tensor_cores<T>(tf32, columns)) {
            if (columns > 64) return run(typename MmaTiles<T>::wide());
            if (columns > 32) return run(typename MmaTiles<T>::middle());
            return run(typename MmaTiles<T>::narrow());
        }
    }
    if constexpr (sizeof(T) == 2) return run(typename Tiles<Accumulator<T>>::narrow());
    else return with_exact_tile<Accumulator<T>>(columns, run);
}

}  // namespace fastconv::cuda
