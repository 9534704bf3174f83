// Work items over threads. Which thread takes an item is left to timing; so an item must write only what
// is its own, and items must be cut by geometry alone: then the bits do not depend on the threads.
#pragma once

#include <omp.h>

#include <cstdint>

namespace fastconv::cpu {
namespace {

// body(item, thread) for every item in [0, items).
template <class Body>
inline void parallel_for(int threads, int64_t items, const Body& body) {
    if (threads <= 1 || items <= 1) {
        for (int64_t item = 0; item < items; ++item) body(item, 0);
        return;
    }
#pragma omp parallel for schedule(dynamic, 1) num_threads(threads)
    for (int64_t item = 0; item < items; ++item) body(item, omp_get_thread_num());
}

// body(item) for items that take equally long: each thread gets one stretch of them, in their order. It is handed out
// at once, and what a thread wrote is in its caches when the next layer's stretch reads it.
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
