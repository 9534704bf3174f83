// The CUDA kernels of relu and max_pool2d as the binding calls them; dispatch.h has those of convolutions. Every entry
// launches on `stream` of the current device, allocates nothing, waits for nothing, and throws std::runtime_error.
// Tensors are dense NCHW or NHWC; their strides say which. Built by nvcc, and by g++ for the emulator (../emulator).
#pragma once

#include <cstdint>

#include "../common/geometry.h"
#include "../simt/stream.h"

namespace fastconv::cuda {

// Dense arrays of `count` elements. mask: bit i % 8 of byte i / 8 says "x[i] > 0 or NaN"; null: not wanted.
void relu_fprop(DType, const void* x, void* y, uint8_t* mask, int64_t count, simt::Stream stream);
void relu_bprop(DType, const void* dy, const uint8_t* mask, void* dx, int64_t count, simt::Stream stream);
// code: uint8 (255: no input in the window) or int32 (-1), or null data.
void max_pool2d_fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d&, simt::Stream stream);
void max_pool2d_bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d&, simt::Stream stream);

}  // namespace fastconv::cuda
