// Runs a grid block by block and a block thread by thread, and ends the waits of its threads.
#include "runtime.h"

#include <pthread.h>

#include <algorithm>
#include <cstring>
#include <mutex>
#include <numeric>

#include "counters.h"
#include "state.h"

namespace fastconv::emulator {

Settings settings;
Running running;

int thread() { return running.current->index; }
int block_size() { return running.threads; }
Dim block() { return running.block; }
Dim grid() { return running.grid; }

std::string prefix(Where where) { return std::string(where.file) + ":" + std::to_string(where.line) + ": "; }

std::string name_of(const Thread& thread) {
    const Dim b = running.block;
    return "thread " + std::to_string(thread.index) + " of block (" + std::to_string(b.x) + ", " + std::to_string(b.y) +
           ", " + std::to_string(b.z) + ")";
}

namespace {

void suspend_current() {
    Thread& thread = *running.current;
    running.current = nullptr;
    thread.fiber.suspend();
}

Thread& at(int index) { return *running.all[size_t(index)]; }

Warp& warp_of(const Thread& thread) { return running.warps[size_t(thread.index / warp_size)]; }

bool same(Where a, Where b) { return a.line == b.line && (a.file == b.file || !std::strcmp(a.file, b.file)); }

std::string whereabouts(const Thread& thread) {
    if (thread.state == Thread::State::finished) return "has returned";
    return std::string("waits in ") + thread.waits_in + " at " + thread.where.file + ":" +
           std::to_string(thread.where.line);
}

// Returns the error in the threads that wait in a barrier, or "".
std::string barrier_fault() {
    if (running.in_barrier == 0) return "";
    Thread* first = nullptr;
    for (int i = 0; i < running.threads && !first; ++i)
        if (at(i).state == Thread::State::in_barrier) first = &at(i);
    for (int i = 0; i < running.threads; ++i) {
        const Thread& other = at(i);
        const bool elsewhere = other.state == Thread::State::in_barrier && !same(first->where, other.where);
        if (elsewhere || other.state == Thread::State::finished)
            return prefix(first->where) + "divergent barrier: " + name_of(*first) + " waits here, thread " +
                   std::to_string(i) + " " + whereabouts(other);
    }
    return "";
}

// Returns the reason for a deadlock.
std::string deadlock() {
    const std::string fault = barrier_fault();
    if (!fault.empty()) return fault;
    for (size_t w = 0; w < running.warps.size(); ++w) {
        if (running.warps[w].waiting == 0) continue;
        const Thread *waits = nullptr, *missing = nullptr;
        std::string lanes;
        for (int lane = 0; lane < warp_size; ++lane) {
            const Thread& thread = at(int(w) * warp_size + lane);
            if (thread.state == Thread::State::in_collective) {
                waits = &thread;
            } else {
                if (!missing) missing = &thread;
                lanes += (lanes.empty() ? "" : ", ") + std::to_string(lane);
            }
        }
        return prefix(waits->where) + waits->waits_in + " needs all 32 lanes; in warp " + std::to_string(w) +
               " are missing: " + lanes + "; thread " + std::to_string(missing->index) + " " + whereabouts(*missing);
    }
    return "emulator: no thread can go on";
}

void run_thread() {
    Thread& thread = *running.current;
    thread.fiber.begin();
    running.kernel(running.arguments);
    if (!thread.copies.empty())
        fail(prefix(thread.copies[0].where) + "copy_async of " + name_of(thread) +
             " is not waited for before the thread ends");
    thread.state = Thread::State::finished;
    ++running.finished;
    running.error = barrier_fault();
    suspend_current();
}

bool failed() { return !running.error.empty(); }

// Runs a thread until it waits. Returns false if it waits already, or if the launch has failed.
bool step(Thread& thread) {
    if (thread.state != Thread::State::ready || failed()) return false;
    running.current = &thread;
    thread.fiber.resume();
    running.current = nullptr;
    return true;
}

// Runs threads until the block has ended or failed.
void run_threads() {
    std::vector<int> order(size_t(running.threads));
    std::iota(order.begin(), order.end(), 0);
    if (settings.schedule == Schedule::reverse) std::reverse(order.begin(), order.end());
    const int favourite = int(settings.seed % running.warps.size()) * warp_size;
    uint64_t random = settings.seed * 2654435761u + 88172645463325252u + running.block_serial;
    while (running.finished < running.threads && !failed()) {
        if (settings.schedule == Schedule::random)
            for (size_t i = order.size(); i > 1; --i) {
                random ^= random << 13, random ^= random >> 7, random ^= random << 17;
                std::swap(order[i - 1], order[random % i]);
            }
        bool progress = false;
        for (const int index : order) {
            while (settings.schedule == Schedule::ahead) {
                bool went = false;
                for (int lane = 0; lane < warp_size; ++lane) went |= step(at(favourite + lane));
                if (!went) break;
                progress = true;
            }
            progress |= step(at(index));
        }
        if (!progress && !failed()) running.error = deadlock();
    }
}

void run_block() {
    ++running.block_serial;
    running.block_start = running.barrier_time = ++running.now;
    running.warps.assign(size_t(running.threads / warp_size), Warp{0, running.now});
    running.in_barrier = running.finished = 0;
    clear_shared();
    for (int i = 0; i < running.threads; ++i) {
        Thread& thread = at(i);
        thread.state = Thread::State::ready;
        thread.copies.clear();
        thread.groups = 0;
        thread.fiber.start(run_thread);
    }
    run_threads();
    if (failed()) drop_counters();
    else flush_counters();
}

void find_stack() {
    pthread_attr_t attributes;
    void* low = nullptr;
    size_t size = 0;
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        pthread_attr_getstack(&attributes, &low, &size);
        pthread_attr_destroy(&attributes);
    }
    running.stack_low = static_cast<const char*>(low);
    running.stack_high = running.stack_low + size;
}

}  // namespace

void fail(const std::string& report) {
    running.error = report;
    for (;;) suspend_current();
}

std::string run_grid(Dim grid, int threads, int shared_bytes, void (*kernel)(void*), void* arguments) {
    static std::mutex one_at_a_time;
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    if (grid.x < 1 || grid.y < 1 || grid.z < 1 || grid.y > 65535 || grid.z > 65535)
        return "invalid grid: " + std::to_string(grid.x) + " x " + std::to_string(grid.y) + " x " +
               std::to_string(grid.z) + " blocks";
    if (threads < warp_size || threads > most_threads || threads % warp_size)
        return "invalid block: " + std::to_string(threads) + " threads are not 1 to 32 whole warps";
    if (!prepare_shared(shared_bytes))
        return "invalid launch: " + std::to_string(shared_bytes) + " bytes of shared memory";
    while (int(running.all.size()) < threads) running.all.push_back(std::make_unique<Thread>(int(running.all.size())));
    running.grid = grid;
    running.threads = threads;
    running.kernel = kernel;
    running.arguments = arguments;
    running.error.clear();
    running.launch_start = ++running.now;
    find_stack();
    for (int z = 0; z < grid.z; ++z)
        for (int y = 0; y < grid.y; ++y)
            for (int x = 0; x < grid.x && !failed(); ++x) {
                running.block = {x, y, z};
                run_block();
            }
    if (!failed()) end_launch();
    return running.error;
}

void block_barrier(Where where) {
    Thread& thread = *running.current;
    thread.waits_in = "sync";
    thread.where = where;
    thread.state = Thread::State::in_barrier;
    if (++running.in_barrier + running.finished == running.threads) {
        const std::string fault = barrier_fault();
        if (!fault.empty()) fail(fault);
        running.in_barrier = 0;
        running.barrier_time = ++running.now;
        for (Warp& warp : running.warps) warp.time = running.now;
        for (int i = 0; i < running.threads; ++i) at(i).state = Thread::State::ready;
        flush_counters();
    }
    suspend_current();
}

void warp_collective(const char* name, Collective compute, const void* in, void* out, Where where) {
    Thread& thread = *running.current;
    Warp& warp = warp_of(thread);
    thread.waits_in = name;
    thread.where = where;
    thread.in = in;
    thread.out = out;
    thread.state = Thread::State::in_collective;
    if (++warp.waiting == warp_size) {
        const void* ins[warp_size];
        void* outs[warp_size];
        const int first = thread.index / warp_size * warp_size;
        for (int lane = 0; lane < warp_size; ++lane) {
            Thread& other = at(first + lane);
            if (!same(where, other.where) || std::strcmp(name, other.waits_in) != 0)
                fail(prefix(where) + name + " needs all 32 lanes at one line; thread " + std::to_string(thread.index) +
                     " is here, thread " + std::to_string(other.index) + " " + whereabouts(other));
            ins[lane] = other.in, outs[lane] = other.out;
        }
        if (compute) compute(ins, outs);
        else warp.time = ++running.now;
        warp.waiting = 0;
        for (int lane = 0; lane < warp_size; ++lane) at(first + lane).state = Thread::State::ready;
    }
    suspend_current();
}

}  // namespace fastconv::emulator
