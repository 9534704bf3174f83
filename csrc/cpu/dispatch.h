// The instruction set in use, and the lists of implementations on CPUs.
#pragma once

#include <vector>

#include "../common/choose.h"
#include "kernels.h"

namespace fastconv::cpu {

// kernel_sets(): all sets in this build, best first. kernels(): the set in use, which FASTCONV_ISA names; else the best
// that runs here.
std::vector<const KernelSet*> kernel_sets();
const KernelSet& kernels();

// Returns the list of a direction, by its Args: FpropArgs, DgradArgs or WgradArgs. Its last implementation takes every
// problem.
template <class Args>
const Implementations<Args>& implementations();

template <>
const Implementations<FpropArgs>& implementations();
template <>
const Implementations<DgradArgs>& implementations();
template <>
const Implementations<WgradArgs>& implementations();

}  // namespace fastconv::cpu
