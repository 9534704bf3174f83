// The instruction set in use, and the lists of implementations on CPUs.
#pragma once

#include <vector>

#include "../common/choose.h"
#include "kernels.h"

namespace fastconv::cpu {

// All sets in this build, best first; the one in use: FASTCONV_ISA's, else the best that runs here.
std::vector<const KernelSet*> kernel_sets();
const KernelSet& kernels();

// The list of a direction: FpropArgs, DgradArgs or WgradArgs. Its last implementation takes every problem.
template <class Args>
const Implementations<Args>& implementations();

template <>
const Implementations<FpropArgs>& implementations();
template <>
const Implementations<DgradArgs>& implementations();
template <>
const Implementations<WgradArgs>& implementations();

}  // namespace fastconv::cpu
