// What code that nvcc never sees may know of a stream.
#pragma once

namespace fastconv::simt {

using Stream = void*;  // a cudaStream_t; the emulator does not look at it

}  // namespace fastconv::simt
