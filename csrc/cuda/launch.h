// What the CUDA part offers to the binding. Without nvcc, launch_none.cpp stands in for it.
#pragma once

#include <cstdint>
#include <string>

namespace fastconv::cuda {

struct DeviceCount {
    int count;
    std::string error;  // empty when count is to be trusted
};
DeviceCount device_count();

// y = max(x, 0) on `stream` of `device`; the current device is left as it was. Returns "" or CUDA's error.
std::string relu_fprop(const float* x, float* y, int64_t count, int device, uintptr_t stream);

}  // namespace fastconv::cuda
