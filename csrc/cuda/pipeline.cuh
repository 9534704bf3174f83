// The main loop of tensor-core products: asynchronous copies fill stages of shared memory ahead of the products.
#pragma once

#include "../simt/simt.h"

namespace fastconv::cuda {

// Calls copy(stage) and then multiply(stage) once per iteration, in order; copies run stages - 1 iterations ahead.
// copy() starts the next iteration's asynchronous copies of this thread, multiply() sees all threads' copies. All
// stages are free on return.
template <int stages, class Copy, class Multiply>
FASTCONV_DEVICE void pipelined_loop(int iterations, const Copy& copy, const Multiply& multiply) {
    constexpr int ahead = stages - 1;
    const auto copy_group = [&](bool wanted, int stage) {
        if (wanted) copy(stage);
        simt::copy_commit();  // also without copies: one group per iteration
    };
    FASTCONV_NO_UNROLL
    for (int iteration = 0; iteration < ahead; ++iteration) copy_group(iteration < iterations, iteration);
    int full = 0, free = ahead;  // stages
    FASTCONV_NO_UNROLL
    for (int iteration = 0; iteration < iterations; ++iteration) {
        simt::copy_wait<ahead - 1>();
        simt::sync();  // the iteration's copies have arrived, and nobody reads the stage that the next ones go to
        copy_group(iteration + ahead < iterations, free);
        multiply(full);
        full = full == ahead ? 0 : full + 1;
        free = free == ahead ? 0 : free + 1;
    }
    simt::copy_wait<0>();
    simt::sync();
}

}  // namespace fastconv::cuda
