// Distributes work items to threads. Timing decides which thread takes an item. So an item must write only what it
// owns, and items must be cut by geometry alone: then the bits do not depend on the threads.
#pragma once

#include <omp.h>

#include <cstdint>

namespace fastconv::cpu {
namespace {

// Calls body(item, thread) for every item in [0, items).
template <class Body>
inline void parallel_for(int threads, int64_t items, const Body& body) {
    if (threads <= 1 || items <= 1) {
        for (int64_t item = 0; item < items; ++item) body(item, 0);
        return;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t item = 0; item < items; ++item) body(item, omp_get_thread_num());
}

// Calls body(item) for items of equal cost: each thread gets one run of consecutive items at once. Its results are then
// in its caches when the next layer's run reads them.
template <class Body>
inline void parallel_for_even(int threads, int64_t items, const Body& body) {
    if (threads <= 1 || items <= 1) {
        for (int64_t item = 0; item < items; ++item) body(item);
        return;
    }
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t item = 0; item < items; ++item) body(item);
}

}  // namespace
}  // namespace fastconv::cpu
