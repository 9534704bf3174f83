// The GPU's layout of a fused block's code (Epilogue in geometry.h), shared by the size checks and the kernels.
#pragma once

#include "../common/geometry.h"

namespace fastconv::cuda {

// CodeKind is the content of a code per filter: no code, one bit that is set for a live output, or the winner's
// position in its window. `dead` and `dead_nibble` stand for no position. No gradient passes through a dead output
// (geometry.h).
enum class CodeKind { none, bits, winners };
inline CodeKind code_kind(const Epilogue& epilogue) {
    if (epilogue.activation == Activation::none) return CodeKind::none;
    return epilogue.pooled ? CodeKind::winners : CodeKind::bits;
}

// Whether a code has 4 bits. Two neighboring filters then share a byte, the even one in the low bits.
inline bool has_nibbles(const Pool2d& pool) { return pool.window_h * pool.window_w <= max_nibble_positions; }

// Bytes of one group's codes at a pooled pixel. Groups start at whole bytes, so no two groups or blocks write the same
// byte.
inline int64_t group_code_bytes(const Conv2dProblem& problem) {
    const int64_t filters = problem.conv.K / problem.conv.groups;
    return has_nibbles(problem.pool) ? (filters + 1) / 2 : filters;
}

}  // namespace fastconv::cuda
