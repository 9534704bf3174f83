// How GPUs keep the code of a fused block with a pool (geometry.h, Epilogue): the one rule for the checks of its size
// and for the kernels.
#pragma once

#include "../common/geometry.h"

namespace fastconv::cuda {

// What a code says of each filter: nothing, as there is none; whether the output is alive, a bit; which position of a
// window won, where `dead` and `dead_nibble` are no position. No gradient passes through what is dead (geometry.h).
enum class CodeKind { none, bits, winners };
inline CodeKind code_kind(const Epilogue& epilogue) {
    if (epilogue.activation == Activation::none) return CodeKind::none;
    return epilogue.pooled ? CodeKind::winners : CodeKind::bits;
}

// Whether the code has 4 bits, two neighbouring filters a byte, the even one in the low bits.
inline bool has_nibbles(const Pool2d& pool) { return pool.window_h * pool.window_w <= max_nibble_positions; }

// Bytes of one group at a pooled pixel. Whole ones, so that no two groups, and no two blocks, write to the same.
inline int64_t group_code_bytes(const Conv2dProblem& problem) {
    const int64_t filters = problem.conv.K / problem.conv.groups;
    return has_nibbles(problem.pool) ? (filters + 1) / 2 : filters;
}

}  // namespace fastconv::cuda
