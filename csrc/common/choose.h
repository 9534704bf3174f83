// Which implementation takes a problem: the same rule on CPUs and GPUs.
#pragma once

#include <string>
#include <vector>

#include "implementation.h"

namespace fastconv {

// Those of one direction, in the order in which they are tried.
template <class Args>
using Implementations = std::vector<Implementation<Args>>;

// The one that takes the problem at the least cost, the earlier of equals; with "highest" the same of the exact ones,
// else the one called `name`. A name is chosen for a geometry, by measurement: where only the tensors' layouts keep its
// implementation from a call, the choice is free. Throws std::invalid_argument where there is none.
template <class Args>
const Implementation<Args>& choose(const Implementations<Args>&, const Conv2dProblem&, const std::string& name);

// The bytes of workspace that choose()'s implementation needs, whatever the layouts of the tensors.
template <class Args>
size_t workspace_of(const Implementations<Args>&, const Conv2dProblem&, const std::string& name);

// The names of those that take the problem, choose()'s first, then by cost.
template <class Args>
std::vector<std::string> names_by_cost(const Implementations<Args>&, const Conv2dProblem&);

// For every implementation in front of the chosen one: its name and why the problem did not go to it.
template <class Args>
std::vector<std::string> passed_over(const Implementations<Args>&, const Conv2dProblem&,
                                     const Implementation<Args>& chosen, const std::string& name);

}  // namespace fastconv
