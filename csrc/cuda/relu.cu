// The launchers of relu.
#include "relu.cuh"

#include "check.h"
#include "kernels.h"

namespace fastconv::cuda {

void relu_fprop(DType dtype, const void* x, void* y, uint8_t* mask, int64_t count, simt::Stream stream) {
    if (count == 0) return;
    with_type(dtype, [=](auto type) {
        using T = decltype(type);
        constexpr int V = 16 / int(sizeof(T));
        const bool vectors = is_aligned(x, 16) && is_aligned(y, 16);
        check(simt::launch(vectors ? relu_fprop_kernel<T, V> : relu_fprop_kernel<T, 1>,
                           item_blocks(vectors ? (count + V - 1) / V : count), item_threads, 0, stream,
                           static_cast<const T*>(x), static_cast<T*>(y), mask, count));
    });
}

void relu_bprop(DType dtype, const void* dy, const uint8_t* mask, void* dx, int64_t count, simt::Stream stream) {
    if (count == 0) return;
    with_type(dtype, [=](auto type) {
        using T = decltype(type);
        constexpr int V = 16 / int(sizeof(T));
        const bool vectors = is_aligned(dy, 16) && is_aligned(dx, 16);
        check(simt::launch(vectors ? relu_bprop_kernel<T, V> : relu_bprop_kernel<T, 1>,
                           item_blocks(vectors ? (count + V - 1) / V : count), item_threads, 0, stream,
                           static_cast<const T*>(dy), mask, static_cast<T*>(dx), count));
    });
}

}  // namespace fastconv::cuda
