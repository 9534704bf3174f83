// The CUDA kernels as the binding calls them, one entry an operation. Every entry launches on `stream` of the current
// device, allocates nothing, waits for nothing, and returns "" or the error's text. Tensors are dense NCHW or NHWC;
// their strides say which. Built by nvcc, and by g++ for the emulator (../emulator).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "../common/geometry.h"
#include "../simt/stream.h"

namespace fastconv::cuda {

// The variants of each direction that take a problem, as Conv2dProblem names them; first the one that should be the
// fastest with channels_last tensors.
std::vector<std::string> conv2d_fprop_variants(const Conv2dProblem&);
std::vector<std::string> conv2d_dgrad_variants(const Conv2dProblem&);
std::vector<std::string> conv2d_wgrad_variants(const Conv2dProblem&);
// `workspace` is in bytes; the entry gets that much, aligned to 256 bytes, with undefined content.
size_t conv2d_fprop_workspace(const Conv2dProblem&);
size_t conv2d_dgrad_workspace(const Conv2dProblem&);
size_t conv2d_wgrad_workspace(const Conv2dProblem&);
std::string conv2d_fprop(const Conv2dProblem&, const FpropArgs&, void* workspace, simt::Stream stream);
std::string conv2d_dgrad(const Conv2dProblem&, const DgradArgs&, void* workspace, simt::Stream stream);
std::string conv2d_wgrad(const Conv2dProblem&, const WgradArgs&, void* workspace, simt::Stream stream);

// Dense arrays of `count` elements. mask: bit i % 8 of byte i / 8 says "x[i] > 0 or NaN"; null: not wanted.
std::string relu_fprop(DType, const void* x, void* y, uint8_t* mask, int64_t count, simt::Stream stream);
std::string relu_bprop(DType, const void* dy, const uint8_t* mask, void* dx, int64_t count, simt::Stream stream);
// code: uint8 (255: no input in the window) or int32 (-1), or null data.
std::string max_pool2d_fprop(const Tensor& x, const Tensor& y, const Tensor& code, const Pool2d&, simt::Stream stream);
std::string max_pool2d_bprop(const Tensor& dy, const Tensor& code, const Tensor& dx, const Pool2d&,
                             simt::Stream stream);

}  // namespace fastconv::cuda
