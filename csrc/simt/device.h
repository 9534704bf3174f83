// Devices, for code that nvcc never sees. device.cu implements it; ../cuda/none.cpp in a build without nvcc, and
// ../emulator/device.cpp for tests.
#pragma once

#include <string>

namespace fastconv::simt {

struct DeviceCount {
    int count;
    std::string error;  // empty when count is to be trusted
};
DeviceCount device_count();

// Makes `device` current for as long as it lives: a tensor's own device need not be the current one.
class OnDevice {
public:
    explicit OnDevice(int device);
    ~OnDevice();
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    const std::string& error() const { return error_; }  // "": it is current

private:
    int before_ = 0;
    std::string error_;
};

// "" where this build's kernels run on `device`, else CUDA's text.
std::string why_not_on(int device);

}  // namespace fastconv::simt
