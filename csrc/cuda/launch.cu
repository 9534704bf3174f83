#include <cuda_runtime.h>

#include "launch.h"
#include "relu_fprop.cuh"

namespace fastconv::cuda {

DeviceCount device_count() {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    if (status != cudaSuccess) return {0, cudaGetErrorString(status)};
    return {count, ""};
}

// Makes `device` current for as long as it lives: a tensor's own device need not be the current one.
class OnDevice {
public:
    explicit OnDevice(int device) {
        status_ = cudaGetDevice(&before_);
        if (status_ == cudaSuccess) status_ = cudaSetDevice(device);
    }
    ~OnDevice() {
        if (status_ == cudaSuccess) cudaSetDevice(before_);
    }
    cudaError_t status() const { return status_; }

private:
    int before_ = 0;
    cudaError_t status_;
};

std::string relu_fprop(const float* x, float* y, int64_t count, int device, uintptr_t stream) {
    if (count == 0) return "";
    const OnDevice on(device);
    if (on.status() != cudaSuccess) return cudaGetErrorString(on.status());
    constexpr int threads = 256;
    constexpr int64_t most_blocks = 132 * 16;
    const int64_t blocks = (count + threads - 1) / threads;
    relu_fprop_kernel<<<int(blocks < most_blocks ? blocks : most_blocks), threads, 0,
                        reinterpret_cast<cudaStream_t>(stream)>>>(x, y, count);
    const cudaError_t status = cudaGetLastError();
    return status == cudaSuccess ? "" : cudaGetErrorString(status);
}

}  // namespace fastconv::cuda
