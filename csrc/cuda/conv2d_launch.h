// Helpers for the launchers of all directions: the alignment of operands, and the size of shared memory.
#pragma once

#include <initializer_list>

#include "../common/implementation.h"
#include "check.h"
#include "codes.h"
#include "dtypes.h"
#include "refuse.h"

namespace fastconv::cuda {

// Whether `vector` neighboring channels of T can be read or written at once, starting at every `vector`-th channel of a
// group.
template <class T>
bool has_vectors(const Layout& layout, int vector) {
    return layout.vector_bytes >= vector * int(sizeof(T));
}

// The same for a gradient, which is read together with its code. A code has one byte per filter, or 4 bits for small
// pools.
template <class T>
bool gradient_vectors(const Conv2dProblem& problem, int vector) {
    const int code_bytes = problem.epilogue.pooled && has_nibbles(problem.pool) ? vector / 2 : vector;
    return has_vectors<T>(problem.layouts.y, vector) &&
           (problem.epilogue.activation == Activation::none || problem.layouts.code.vector_bytes >= code_bytes);
}

// Whether memory holds a weight's taps in the order of Taps.
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
