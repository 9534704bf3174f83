#include "device.h"

#include <cuda_runtime.h>

namespace fastconv::simt {
namespace {

// The text of an error that was found here, so that no later launch is blamed for it.
std::string text(cudaError_t status) {
    if (status == cudaSuccess) return "";
    cudaGetLastError();
    return cudaGetErrorString(status);
}

__global__ void probe() {}

}  // namespace

DeviceCount device_count() {
    int count = 0;
    const std::string error = text(cudaGetDeviceCount(&count));
    return {error.empty() ? count : 0, error};
}

OnDevice::OnDevice(int device) {
    error_ = text(cudaGetDevice(&before_));
    if (error_.empty() && before_ != device) error_ = text(cudaSetDevice(device));
    else if (error_.empty()) before_ = -1;  // nothing to put back
}

OnDevice::~OnDevice() {
    if (error_.empty() && before_ >= 0) text(cudaSetDevice(before_));
}

std::string why_not_on(int device) {
    const OnDevice on(device);
    if (!on.error().empty()) return on.error();
    cudaFuncAttributes attributes;
    return text(cudaFuncGetAttributes(&attributes, probe));
}

}  // namespace fastconv::simt
