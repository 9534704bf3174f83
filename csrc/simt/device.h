// Devices, for code that nvcc never sees. device.cu implements it; ../cuda/none.cpp in a build without nvcc, and
// ../emulator/device.cpp for tests.
#pragma once

#include <string>

#include "stream.h"

namespace fastconv::simt {

// CUDA's answer to a question; no text: yes.
struct Answer {
    std::string error;
    bool passing = false;  // another answer may come later: memory is short, the device is busy
};

struct DeviceCount {
    int count;  // 0 where there is an error
    Answer answer;
};
DeviceCount device_count();

// Makes `device` the thread's current one; "" or CUDA's text. It stays so, because restoring a device that has no
// context makes one. Callers restore it by torch, which knows the contexts.
std::string make_current(int device);

// Whether this build's kernels run on `device`, which is the current one from then on.
Answer runs_on(int device);

// Measures by events how long what is launched on a stream takes: from the start to the stop, which waits for it and
// frees the timer. Null where events cannot be had, as while a graph is captured; the stop may then not be called.
struct Timer;
Timer* start_timer(Stream stream);
double stop_timer(Timer*);  // microseconds; negative where CUDA could not say

}  // namespace fastconv::simt
