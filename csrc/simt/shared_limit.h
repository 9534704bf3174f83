// A kernel's limit of dynamic shared memory. CUDA keeps one per device and fails launches that exceed it.
#pragma once

#include <string>

namespace fastconv::simt {

// Raises the kernel's limit on the current device to the most that a block can have. Returns "" or CUDA's error text.
// The limit is never lowered: one set to each launch's bytes could be exceeded by another thread's launch. Defined in
// device.cu.
std::string allow_shared(const void* kernel);

}  // namespace fastconv::simt
