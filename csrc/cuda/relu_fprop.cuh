// y[i] = x[i] < 0 ? 0 : x[i]     (NaN and -0.0 pass, as in torch)
//
// A thread takes every (grid size)-th element, so neighbouring threads read neighbouring words and
// the grid can be as large as the GPU rather than as large as the array.
#pragma once

#include <cstdint>

namespace fastconv::cuda {

template <class T>
__global__ void relu_fprop_kernel(const T* x, T* y, int64_t count) {
    const int64_t step = int64_t(gridDim.x) * blockDim.x;
    for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {
        const T value = x[i];
        y[i] = value < T(0) ? T(0) : value;
    }
}

}  // namespace fastconv::cuda
