// The race build's memory of who touched what. For every piece of shared and global memory that a
// kernel touches it keeps the last write and the reads since then, and so finds every pair of accesses
// that no barrier orders, whatever the schedule; also reads of shared memory that nobody has written
// and any use of what an asynchronous copy is still writing.
//
// Time is the number of barriers so far. An access carries the time of its warp's last barrier, of
// the block or of the warp. It comes before an access of the same block if it is older than the last
// block barrier, or, within a warp, older than the warp's; before one of another block never.
#pragma once

#include "source_line.h"

namespace fastconv::emulator {

void shadow_access(const void* p, int bytes, bool write, SourceLine line);
void shadow_copy_begins(const void* p, int bytes);  // after the access of the write
void shadow_copy_ends(const void* p, int bytes, SourceLine line);

}  // namespace fastconv::emulator
