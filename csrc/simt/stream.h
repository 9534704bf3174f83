// A CUDA stream, for code that nvcc does not compile.
#pragma once

namespace fastconv::simt {

using Stream = void*;  // a cudaStream_t; ignored by the emulator

}  // namespace fastconv::simt
