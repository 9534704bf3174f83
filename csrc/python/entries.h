// The functions that add the CPU and CUDA entries to the module.
#pragma once

#include <pybind11/pybind11.h>

namespace fastconv::python {

void add_cpu_entries(pybind11::module_&);
void add_cuda_entries(pybind11::module_&);

}  // namespace fastconv::python
