// Shadow memory of the race build: who accessed each piece of shared and global memory last.
//
// It keeps the last write and the reads since then. So it finds every pair of accesses that no barrier orders, whatever
// the schedule. It also finds reads of shared memory that nobody has written, and uses of bytes that an asynchronous
// copy is still writing.
//
// Time is the number of barriers so far. An access has the time of its warp's last barrier, of the block or of the
// warp. It precedes another access of its block if it is older than the last block barrier, or, within a warp, older
// than the warp's. It never precedes an access of another block.
#pragma once

#include "source_line.h"

namespace fastconv::emulator {

void shadow_access(const void* p, int bytes, bool write, SourceLine line);
void shadow_copy_begins(const void* p, int bytes);  // called after the access of the write
void shadow_copy_ends(const void* p, int bytes, SourceLine line);

}  // namespace fastconv::emulator
