// The CUDA kernels of relu and max_pool2d as the binding calls them. dispatch.h has those of convolutions. Every
// function launches on `stream` of the current device, allocates nothing, waits for nothing, and throws
// std::runtime_error. Tensors are dense; their strides tell NCHW from NHWC. nvcc compiles the kernels, and g++ does so
// for the emulator (../emulator).
#pragma once

#include <cstdint>

#include "../common/geometry.h"
#include "../simt/stream.h"

namespace fastconv::cuda {

// Arrays are dense and have `count` elements. Bit i % 8 of the mask's byte i / 8 is set if x[i] > 0 or NaN. The mask
// may be null.
void relu_fprop(DType, const void* x, void* y, uint8_t* mask, int64_t count, simt::Stream stream);
void relu_bprop(DType, const void* dy, const uint8_t* mask, void* dx, int64_t count, simt::Stream stream);
// code: uint8 (255 for a window without input) or int32 (-1), or null data.
void max_pool2d_fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d&, simt::Stream stream);
void max_pool2d_bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d&, simt::Stream stream);

}  // namespace fastconv::cuda
