// Which instruction set and which implementation run.
#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace fastconv::cpu {

// All sets in this build, best first; the one in use: FASTCONV_ISA's, else the best that runs here.
std::vector<const KernelSet*> kernel_sets();
const KernelSet& kernels();

// Implementations in the order in which they are tried; the last one takes every problem.
std::vector<Implementation<FpropArgs>> fprop_implementations();
std::vector<Implementation<DgradArgs>> dgrad_implementations();
std::vector<Implementation<WgradArgs>> wgrad_implementations();

// The first that applies, with "highest" the first exact one, or the one called `name`. Throws
// std::invalid_argument.
template <class Args>
Implementation<Args> choose(const std::vector<Implementation<Args>>& list, const Conv2dProblem& problem,
                            const std::string& name);

extern template Implementation<FpropArgs> choose(const std::vector<Implementation<FpropArgs>>&, const Conv2dProblem&,
                                                 const std::string&);
extern template Implementation<DgradArgs> choose(const std::vector<Implementation<DgradArgs>>&, const Conv2dProblem&,
                                                 const std::string&);
extern template Implementation<WgradArgs> choose(const std::vector<Implementation<WgradArgs>>&, const Conv2dProblem&,
                                                 const std::string&);

}  // namespace fastconv::cpu
