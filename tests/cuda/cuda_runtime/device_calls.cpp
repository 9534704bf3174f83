// csrc/simt/device.cu on the runtime of this folder: prints what each call does, for test_cuda_runtime.py.
#include "../../../csrc/simt/device.h"

#include <cuda_runtime.h>

#include <cstdio>
#include <thread>

#include "../../../csrc/simt/shared_limit.h"

using namespace fastconv::simt;

namespace {

void print_contexts(const char* after) {
    std::printf("contexts after %s:", after);
    for (const int device : runtime.contexts) std::printf(" %d", device);
    std::puts("");
}

void print_limits(const char* after) {
    std::printf("limits after %s:", after);
    for (const auto& [key, values] : runtime.limits)
        for (const int value : values) std::printf(" %d:%d", key.second, value);
    std::puts("");
}

// Whoever calls it on some device has no context on device 0.
void contexts() {
    std::thread([] { make_current(1); }).join();
    print_contexts("make_current(1)");
    std::thread([] { runs_on(1); }).join();
    print_contexts("runs_on(1)");
}

void limits() {
    const int kernels[2] = {};
    runtime.next = cudaErrorMemoryAllocation;
    std::printf("short of memory: %s\n", allow_shared(&kernels[0]).c_str());
    print_limits("an error");
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i)
        threads.emplace_back([&kernels, i] {
            make_current(i % devices);
            for (int again = 0; again < 100; ++again) allow_shared(&kernels[0]);
        });
    for (std::thread& thread : threads) thread.join();
    print_limits("eight threads");
    allow_shared(&kernels[1]);
    print_limits("another kernel");
}

void errors() {
    for (int status = 1; status < last_error; ++status) {
        runtime.next = cudaError_t(status);
        const Answer answer = runs_on(0);
        std::printf("%d: %s, %s\n", status, answer.error.c_str(), answer.passing ? "passing" : "lasts");
        runtime.next = cudaError_t(status);
        const DeviceCount found = device_count();
        if (found.count != 0 || found.answer.error != answer.error || found.answer.passing != answer.passing)
            std::puts("device_count says something else");
    }
    std::printf("none: %s, %s\n", runs_on(0).error.c_str(), runs_on(0).passing ? "passing" : "lasts");
    std::printf("count: %d\n", device_count().count);
    std::printf("no such device: %s\n", runs_on(7).passing ? "passing" : "lasts");
}

void timers() {
    std::printf("measured: %g\n", stop_timer(start_timer(nullptr)));
    runtime.next = cudaErrorMemoryAllocation;
    std::printf("no event: %s\n", start_timer(nullptr) ? "a timer" : "none");
    Timer* timer = start_timer(nullptr);
    runtime.next = cudaErrorMemoryAllocation;
    std::printf("no stop: %g\n", stop_timer(timer));
    runtime.capturing = true;
    std::printf("capturing: %s\n", start_timer(nullptr) ? "a timer" : "none");
    runtime.capturing = false;
    std::printf("events left: %d\n", runtime.events);
}

}  // namespace

int main() {
    contexts();
    limits();
    errors();
    timers();
}
