// A kernel's limit of dynamic shared memory, which CUDA keeps for each device and launches may not exceed.
#pragma once

#include <string>

namespace fastconv::simt {

// Raises the kernel's limit on the current device to all that a block can have there; "" or CUDA's text. It is set once
// and never lowered: a limit of each launch's bytes is one that other threads' launches may exceed. device.cu has it.
std::string allow_shared(const void* kernel);

}  // namespace fastconv::simt
