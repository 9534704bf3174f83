// The name of a problem in one line, as fastconv.testing.Problem.parse reads it.
#pragma once

#include <string>
#include <vector>

#include "../common/geometry.h"

namespace fastconv::python {

// conv: Python's tuple, with the padding below and on the right.
std::string problem_text(const Conv2dProblem&, const std::vector<int64_t>& conv, bool bias);
std::string problem_text(const Tensor& x, const Pool2d&);
std::string problem_text(DType, int64_t relus);  // relus: the number of elements

}  // namespace fastconv::python
