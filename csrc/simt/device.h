// Device functions for code that nvcc does not compile. device.cu implements them. ../cuda/none.cpp does so in a build
// without nvcc, and ../emulator/device.cpp for tests.
#pragma once

#include <string>

#include "stream.h"

namespace fastconv::simt {

// CUDA's answer to a query. An empty text means yes.
struct Answer {
    std::string error;
    bool passing = false;  // the answer may change later: memory is short, the device is busy
};

struct DeviceCount {
    int count;  // 0 with an error
    Answer answer;
};
DeviceCount device_count();

// Makes `device` the thread's current one; returns "" or CUDA's text. It does not restore the old device, since that
// would create a context there. Callers restore it with torch, which knows the contexts.
std::string make_current(int device);

// Whether this build's kernels run on `device`, which becomes the current one.
Answer runs_on(int device);

// A Timer measures launches on a stream with events, from start_timer to stop_timer. stop_timer waits for the stream
// and frees the timer. start_timer returns null if events are not available, as during graph capture; stop_timer must
// then not be called.
struct Timer;
Timer* start_timer(Stream stream);
double stop_timer(Timer*);  // microseconds; negative if CUDA reports an error

}  // namespace fastconv::simt
