// What the parts of the runtime share: the launch that is running, its block, warps and threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "runtime.h"

namespace fastconv::emulator {

constexpr int warp_size = 32, most_threads = 1024;

enum class Schedule {
    forward,  // every thread in turn up to where it waits
    reverse,
    random,  // in a new order each time round
    ahead    // one warp always as far as it can, the others as in forward
};

struct Settings {
    Schedule schedule = Schedule::forward;
    unsigned seed = 0;         // of random; for ahead, the warp
    bool late_copies = false;  // cp.async moves its bytes at the wait that needs them, not at once
    bool count = false;        // race build: counters (counters.h)
};
extern Settings settings;

struct Copy {
    void* to;
    const void* from;
    int bytes;
    bool valid;
    int group;
    Where where;
};

struct Thread {
    explicit Thread(int index) : fiber(index), index(index) {}
    enum class State { ready, in_barrier, in_collective, finished };
    Fiber fiber;
    const int index;
    State state = State::finished;
    const char* waits_in = "";  // the function, and its line
    Where where{};
    const void* in = nullptr;  // of a collective
    void* out = nullptr;
    std::vector<Copy> copies;  // under way
    int groups = 0;            // committed
};

// Time counts barriers: see shadow.h.
struct Warp {
    int waiting = 0;  // lanes in a collective
    uint32_t time = 0;
};

struct Running {
    Dim grid, block;
    int threads = 0;
    std::vector<std::unique_ptr<Thread>> all;  // as many as the largest block had so far
    Thread* current = nullptr;                 // null: no kernel code is running
    void (*kernel)(void*) = nullptr;
    void* arguments = nullptr;
    std::vector<Warp> warps;
    int in_barrier = 0, finished = 0;
    uint32_t now = 0, launch_start = 0, block_start = 0, barrier_time = 0;
    uint32_t block_serial = 0;
    const char *stack_low = nullptr, *stack_high = nullptr;  // of the thread that launched
    std::string error;
};
extern Running running;

// Called from within a kernel: ends the launch. The thread that calls it is left where it is, for good.
[[noreturn]] void fail(const std::string& report);
// "file:line: "
std::string prefix(Where where);
// "thread 3 of block (0, 1, 0)"
std::string name_of(const Thread& thread);

// Waits for the other lanes; the last one computes from all their inputs all their outputs. Without
// `compute` it is sync_warp.
using Collective = void (*)(const void* const (&in)[warp_size], void* const (&out)[warp_size]);
void warp_collective(const char* name, Collective compute, const void* in, void* out, Where where);

// memory.cpp
bool prepare_shared(int bytes);  // for a launch; false: too many
void clear_shared();             // for a block
int taken_shared();              // bytes that the block took
bool in_shared(const void* p);
bool in_part(const void* p, int bytes);  // of what was taken
void check_access(const void* p, int bytes, bool write, Where where);

}  // namespace fastconv::emulator
