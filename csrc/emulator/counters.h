// The race build's counters of how kernels use memory.
//
// Every access is seen with its address. The k-th access of each lane on one line of code between two barriers counts
// as one instruction of the warp. As on the hardware,
//   shared memory   has 32 banks of 4 bytes. Accesses of 8 bytes are served half a warp at a time, of 16 bytes a
//                   quarter. Each such part costs as many steps as the busiest bank has different words
//   global memory   moves in sectors of 32 bytes
//
// Device-memory traffic is counted per launch as behind an ideal cache: each sector read counts once, each sector
// written counts once. The cache holds what blocks share for as long as they do (an H100's L2 has 50 MB). It keeps
// nothing from one launch to the next, not even sums that the next one reads at once. The order of blocks is ignored.
#pragma once

#include "source_line.h"

namespace fastconv::emulator {

void count_access(const void* p, int bytes, bool write, SourceLine line);
void flush_counters();  // at a barrier and at a block's end
void drop_counters();
void end_launch();  // of a launch that has not failed

// [{"line", "space", "write", "accesses", "cost", "least", "bytes"}, ...] since the last call, as JSON. cost: steps or
// sectors; least: the fewest that move the same bytes.
std::string take_counters();

// [{"kernel", "threads", "shared_bytes"}, ...] of the kernels that ran since the last call, each once, as JSON. Red
// zones are not part of shared_bytes.
std::string take_launches();

// [{"write", "begin", "bytes"}, ...] since the last call, as JSON: neighboring sectors of a launch are merged.
std::string take_traffic();

}  // namespace fastconv::emulator
