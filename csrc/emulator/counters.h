// The race build's counts of how kernels use memory. It sees every access with its address; the k-th
// access of each lane at one place of the code between two barriers is taken for one instruction of
// the warp. As on the hardware,
//   shared memory   has 32 banks of 4 bytes; 8-byte accesses go half a warp at a time, 16-byte ones a
//                   quarter; each such part costs as many steps as the worst bank has different words
//   global memory   moves in sectors of 32 bytes
//
// Apart from that, what a launch moves through device memory behind a cache: every sector that it reads
// counts once, every sector that it writes counts once. So the cache holds what blocks share for as long
// as they do (an H100's L2 has 50 MB) and keeps nothing from one launch to the next, not even sums that
// the next one reads at once. The order of blocks, which decides how long they share, is not looked at.
#pragma once

#include "source_line.h"

namespace fastconv::emulator {

void count_access(const void* p, int bytes, bool write, SourceLine line);
void flush_counters();  // at a barrier and at a block's end
void drop_counters();
void end_launch();  // that has not failed

// [{"line", "space", "write", "accesses", "cost", "least", "bytes"}, ...] since the last call, as JSON.
// cost: steps or sectors; least: what the same bytes cost at best.
std::string take_counters();

// [{"kernel", "threads", "shared_bytes"}, ...] of the kernels that ran since the last call, each once, as JSON; their
// shared memory without the emulator's red zones.
std::string take_launches();

// [{"write", "begin", "bytes"}, ...] since the last call, as JSON: of each launch, neighbouring sectors together.
std::string take_traffic();

}  // namespace fastconv::emulator
