// The lists of convolution implementations on GPUs. This is host code; nvcc need not compile it.
#pragma once

#include <string>

#include "../common/choose.h"

namespace fastconv::cuda {

// Returns the list of a direction, by its Args: FpropArgs, DgradArgs or WgradArgs. `run` launches on the current
// device's stream, allocates nothing and waits for nothing. Tensors are dense; their strides tell NCHW from NHWC.
template <class Args>
const Implementations<Args>& implementations();

template <>
const Implementations<FpropArgs>& implementations();
template <>
const Implementations<DgradArgs>& implementations();
template <>
const Implementations<WgradArgs>& implementations();

// Returns "" or the count that is too large for every kernel, in words. Callers check this before they choose.
std::string refuse(const Conv2dProblem&);

}  // namespace fastconv::cuda
