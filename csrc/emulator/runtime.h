// The emulator's runtime as simt.h calls it: it runs a grid block by block, with each thread of a block on its own
// stack. Threads switch only where one waits for others; Settings (state.h) gives the order.
#pragma once

#include <cstdint>
#include <string>

#include "../simt/types.h"

namespace fastconv::emulator {

using simt::Dim;

// A line of a kernel. As a default argument, here() is the line of the call.
struct Where {
    const char* file;
    int line;
};
constexpr Where here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

int thread();
int block_size();
Dim block();
Dim grid();

constexpr int red_zone = 128;
char* take_shared(int offset, int bytes, Where where);

void block_barrier(Where where);
void warp_barrier(Where where);
uint64_t shuffle(const char* name, uint64_t value, int source, Where where);
uint32_t ballot(bool value, Where where);

void load(void* to, const void* from, int bytes, Where where);
void store(void* to, const void* from, int bytes, Where where);

void copy_async(void* to, const void* from, int bytes, bool valid, Where where);
void copy_commit();
void copy_wait(int pending);

void ldmatrix(const char* name, uint32_t* d, const void* row, int matrices, bool trans, Where where);
enum class Mma { tf32, bf16, fp16 };
void mma(Mma type, float* d, const uint32_t* a, const uint32_t* b, Where where);
void mma_sp(Mma type, float* d, const uint32_t* a, const uint32_t* b, uint32_t metadata, int selector, Where where);

// Records the kernel and the shared memory of the last launch, for take_launches() of counters.h.
void count_launch(const void* kernel, int threads);

// Runs kernel(arguments) as every thread of the grid. Returns "" or a report.
std::string run_grid(Dim grid, int threads, int shared_bytes, void (*kernel)(void*), void* arguments);

}  // namespace fastconv::emulator
