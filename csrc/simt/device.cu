// Host queries of CUDA's runtime: devices, streams and limits of kernels.
#include "device.h"

#include <cuda_runtime.h>

#include <mutex>
#include <set>
#include <utility>

#include "shared_limit.h"

namespace fastconv::simt {
namespace {

// Returns an error's text and clears it, so no later launch is blamed for it.
std::string text(cudaError_t status) {
    if (status == cudaSuccess) return "";
    cudaGetLastError();
    return cudaGetErrorString(status);
}

// Whether an error lasts as long as the process: only another driver, GPU or build would change it.
bool lasts(cudaError_t status) {
    switch (status) {
        case cudaErrorInsufficientDriver:
        case cudaErrorSystemDriverMismatch:
        case cudaErrorCompatNotSupportedOnDevice:
        case cudaErrorInvalidDevice:
        case cudaErrorInvalidDeviceFunction:
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorInvalidKernelImage:
        case cudaErrorInvalidPtx:
        case cudaErrorUnsupportedPtxVersion:
        case cudaErrorJitCompilerNotFound:
        case cudaErrorJitCompilationDisabled: return true;
        default: return false;
    }
}

Answer answer(cudaError_t status) { return {text(status), status != cudaSuccess && !lasts(status)}; }

cudaError_t set_current(int device) {
    int current = 0;
    const cudaError_t status = cudaGetDevice(&current);
    return status != cudaSuccess || current == device ? status : cudaSetDevice(device);
}

__global__ void probe() {}

}  // namespace

DeviceCount device_count() {
    int count = 0;
    const Answer found = answer(cudaGetDeviceCount(&count));
    return {found.error.empty() ? count : 0, found};
}

std::string make_current(int device) { return text(set_current(device)); }

Answer runs_on(int device) {
    const cudaError_t status = set_current(device);
    if (status != cudaSuccess) return answer(status);
    cudaFuncAttributes attributes;
    return answer(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(probe)));
}

struct Timer {
    cudaStream_t stream;
    cudaEvent_t start = nullptr, stop = nullptr;
};

static double end_timer(Timer* timer, double microseconds) {
    if (timer->start) cudaEventDestroy(timer->start);
    if (timer->stop) cudaEventDestroy(timer->stop);
    delete timer;
    return microseconds;
}

Timer* start_timer(Stream stream) {
    auto* timer = new Timer{static_cast<cudaStream_t>(stream)};
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    const bool ready = text(cudaStreamIsCapturing(timer->stream, &capture)).empty() &&
                       capture == cudaStreamCaptureStatusNone && text(cudaEventCreate(&timer->start)).empty() &&
                       text(cudaEventCreate(&timer->stop)).empty() &&
                       text(cudaEventRecord(timer->start, timer->stream)).empty();
    if (ready) return timer;
    end_timer(timer, 0);
    return nullptr;
}

double stop_timer(Timer* timer) {
    float milliseconds = 0;
    const bool measured = text(cudaEventRecord(timer->stop, timer->stream)).empty() &&
                          text(cudaEventSynchronize(timer->stop)).empty() &&
                          text(cudaEventElapsedTime(&milliseconds, timer->start, timer->stop)).empty();
    return end_timer(timer, measured ? 1e3 * double(milliseconds) : -1);
}

std::string allow_shared(const void* kernel) {
    static std::mutex mutex;
    static std::set<std::pair<const void*, int>> allowed;  // kernel, device
    int device = 0, most = 0;
    std::string error = text(cudaGetDevice(&device));
    if (!error.empty()) return error;
    const std::lock_guard<std::mutex> lock(mutex);
    if (allowed.count({kernel, device})) return "";
    error = text(cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    if (error.empty()) error = text(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, most));
    if (error.empty()) allowed.insert({kernel, device});
    return error;
}

}  // namespace fastconv::simt
