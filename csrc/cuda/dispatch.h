// The lists of implementations on GPUs. Host code that nvcc need not see.
#pragma once

#include <string>

#include "../common/choose.h"

namespace fastconv::cuda {

// The list of a direction: FpropArgs, DgradArgs or WgradArgs. `run` launches on the stream of the current device,
// allocates nothing and waits for nothing. Tensors are dense NCHW or NHWC; their strides say which.
template <class Args>
const Implementations<Args>& implementations();

template <>
const Implementations<FpropArgs>& implementations();
template <>
const Implementations<DgradArgs>& implementations();
template <>
const Implementations<WgradArgs>& implementations();

// "" or why no implementation takes a problem: it has more of something than the kernels count. Asked first.
std::string refuse(const Conv2dProblem&);

}  // namespace fastconv::cuda
