// State shared by the parts of the runtime: the running launch, its block, warps and threads.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "fiber.h"
#include "runtime.h"

namespace fastconv::emulator {

constexpr int warp_size = 32, most_threads = 1024;

enum class Schedule {
    forward,  // threads in order, each until it waits
    reverse,
    random,  // a new order every round
    ahead    // one warp always as far as it can go, the others as in forward
};

struct Settings {
    Schedule schedule = Schedule::forward;
    unsigned seed = 0;         // random: of the order; ahead: number of the warp
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
    const char* waits_in = "";  // the function that waits, and its line
    Where where{};
    const void* in = nullptr;  // arguments of a collective
    void* out = nullptr;
    std::vector<Copy> copies;  // not yet arrived
    int groups = 0;            // committed
};

// Time counts barriers (shadow.h).
struct Warp {
    int waiting = 0;  // lanes in a collective
    uint32_t time = 0;
};

struct Running {
    Dim grid, block;
    int threads = 0;
    std::vector<std::unique_ptr<Thread>> all;  // as many as the largest block so far
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

// Ends the launch; called from within a kernel. The calling thread never resumes.
[[noreturn]] void fail(const std::string& report);
// "file:line: "
std::string prefix(Where where);
// "thread 3 of block (0, 1, 0)"
std::string name_of(const Thread& thread);

// Waits for the other lanes. The last one computes all lanes' outputs from all their inputs. Without `compute` it is
// sync_warp.
using Collective = void (*)(const void* const (&in)[warp_size], void* const (&out)[warp_size]);
void warp_collective(const char* name, Collective compute, const void* in, void* out, Where where);

// memory.cpp
bool prepare_shared(int bytes);  // for a launch; false: too many
void clear_shared();             // for a block
int taken_shared();              // bytes that the block took
bool in_shared(const void* p);
bool in_part(const void* p, int bytes);  // of those taken
void check_access(const void* p, int bytes, bool write, Where where);

}  // namespace fastconv::emulator
