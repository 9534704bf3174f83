// What csrc/simt/device.cu uses of CUDA's runtime, for g++: as documented for CUDA 12 and 13, on two devices. A
// device's context is made by the first call that needs one, cudaSetDevice among them.
#pragma once

#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#define __global__

enum cudaError_t {
    cudaSuccess,
    cudaErrorMemoryAllocation,
    cudaErrorInitializationError,
    cudaErrorInsufficientDriver,
    cudaErrorDevicesUnavailable,
    cudaErrorSystemDriverMismatch,
    cudaErrorCompatNotSupportedOnDevice,
    cudaErrorInvalidDevice,
    cudaErrorInvalidDeviceFunction,
    cudaErrorNoKernelImageForDevice,
    cudaErrorInvalidKernelImage,
    cudaErrorInvalidPtx,
    cudaErrorUnsupportedPtxVersion,
    cudaErrorJitCompilerNotFound,
    cudaErrorJitCompilationDisabled,
    cudaErrorSystemNotReady,
    last_error
};
enum cudaDeviceAttr { cudaDevAttrMaxSharedMemoryPerBlockOptin };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
struct cudaFuncAttributes {};

constexpr int devices = 2, most_shared[devices] = {99 << 10, 227 << 10};

struct Event {
    bool recorded = false;
};
using cudaEvent_t = Event*;
using cudaStream_t = void*;
enum cudaStreamCaptureStatus { cudaStreamCaptureStatusNone, cudaStreamCaptureStatusActive };

struct Runtime {
    std::mutex mutex;
    std::set<int> contexts;
    std::map<std::pair<const void*, int>, std::vector<int>> limits;  // set so far, by kernel and device
    int events = 0;                                                  // that are there
    bool capturing = false;
    cudaError_t next = cudaSuccess;  // of the next call that needs a context
};
inline Runtime runtime;
inline thread_local int current_device = 0;

inline cudaError_t needs_context() {
    if (runtime.next != cudaSuccess) return std::exchange(runtime.next, cudaSuccess);
    runtime.contexts.insert(current_device);
    return cudaSuccess;
}

inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t status) {
    static const std::string texts[] = {"no error", "out of memory"};
    static thread_local std::string other;
    if (status < 2) return texts[status].c_str();
    return (other = "error " + std::to_string(status)).c_str();
}
inline cudaError_t cudaGetDeviceCount(int* count) {
    const std::lock_guard<std::mutex> lock(runtime.mutex);
    *count = devices;
    return std::exchange(runtime.next, cudaSuccess);
}
inline cudaError_t cudaGetDevice(int* device) {
    *device = current_device;
    return cudaSuccess;
}
inline cudaError_t cudaSetDevice(int device) {
    const std::lock_guard<std::mutex> lock(runtime.mutex);
    if (device < 0 || device >= devices) return cudaErrorInvalidDevice;
    current_device = device;
    return needs_context();
}
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, const void*) {
    const std::lock_guard<std::mutex> lock(runtime.mutex);
    return needs_context();
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int device) {
    *value = most_shared[device];
    return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
    const std::lock_guard<std::mutex> lock(runtime.mutex);
    const cudaError_t status = needs_context();
    if (status == cudaSuccess) runtime.limits[{kernel, current_device}].push_back(value);
    return status;
}
inline cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
    *status = runtime.capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
inline cudaError_t cudaEventCreate(cudaEvent_t* event) {
    const std::lock_guard<std::mutex> lock(runtime.mutex);
    const cudaError_t status = needs_context();
    if (status == cudaSuccess) *event = new Event, ++runtime.events;
    return status;
}
inline cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    --runtime.events;
    return cudaSuccess;
}
inline cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
    event->recorded = true;
    return std::exchange(runtime.next, cudaSuccess);
}
inline cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
inline cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t stop) {
    *milliseconds = start->recorded && stop->recorded ? 0.25f : -1.0f;
    return cudaSuccess;
}
