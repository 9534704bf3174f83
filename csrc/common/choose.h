// choose() picks the implementation for a problem, by the same rule on CPUs and GPUs.
#pragma once

#include <string>
#include <vector>

#include "implementation.h"

namespace fastconv {

// The implementations of one direction, in the order in which they are tried.
template <class Args>
using Implementations = std::vector<Implementation<Args>>;

// Returns the implementation of least cost that takes the problem, the earlier of equals. "highest" allows only exact
// ones; any other non-empty `name` allows only that implementation. Names come from measurements of a geometry. If only
// the tensors' layouts keep the named implementation from a call, the least cost decides again. Throws
// std::invalid_argument if there is none.
template <class Args>
const Implementation<Args>& choose(const Implementations<Args>&, const Conv2dProblem&, const std::string& name);

// Bytes of workspace that choose()'s implementation needs, enough for all layouts of the tensors.
template <class Args>
size_t workspace_of(const Implementations<Args>&, const Conv2dProblem&, const std::string& name);

// Names of the implementations that take the problem, choose()'s first, then by cost.
template <class Args>
std::vector<std::string> names_by_cost(const Implementations<Args>&, const Conv2dProblem&);

// Returns, for every implementation before the chosen one, its name and why it was passed over.
template <class Args>
std::vector<std::string> passed_over(const Implementations<Args>&, const Conv2dProblem&,
                                     const Implementation<Args>& chosen, const std::string& name);

}  // namespace fastconv
