// The race build's counts of how kernels use memory. It sees every access with its address; the k-th
// access of each lane at one place of the code between two barriers is taken for one instruction of
// the warp. As on the hardware,
//   shared memory   has 32 banks of 4 bytes; 8-byte accesses go half a warp at a time, 16-byte ones a
//                   quarter; each such part costs as many steps as the worst bank has different words
//   global memory   moves in sectors of 32 bytes
#pragma once

#include "site.h"

namespace fastconv::emulator {

void count_access(const void* p, int bytes, bool write, Site site);
void flush_counters();  // at a barrier and at a block's end
void drop_counters();

// [{"line", "space", "write", "accesses", "cost", "least", "bytes"}, ...] since the last call, as JSON.
// cost: steps or sectors; least: what the same bytes cost at best.
std::string take_counters();

}  // namespace fastconv::emulator
