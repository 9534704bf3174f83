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

// Calls run(a value of the tile's type) for a product of elements T with so many columns. 16-bit types are for tensor
// cores, and float is where it may be rounded to TF32, unless columns are so few that most of a tile would be empty, as
// in depthwise convolutions.
template <class T, class Run>
auto with_tile(bool tf32, int columns, const Run& run) {
    if constexpr (sizeof(T) <= 4) {
        if (columns > 8 && (sizeof(T) == 2 || tf32)) {
            if (columns > 64) return run(typename MmaTiles<T>::wide());
            if (columns > 32) return run(typename MmaTiles<T>::middle());
            return run(typename MmaTiles<T>::narrow());
        }
    }
    if constexpr (sizeof(T) == 2) return run(typename Tiles<Accumulator<T>>::narrow());
    else return with_exact_tile<Accumulator<T>>(columns, run);
}

}  // namespace fastconv::cuda
