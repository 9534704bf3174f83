// The entries of the module, by whose kernels they call.
#pragma once

#include <pybind11/pybind11.h>

namespace fastconv::python {

void add_cpu_entries(pybind11::module_&);
void add_cuda_entries(pybind11::module_&);

}  // namespace fastconv::python
