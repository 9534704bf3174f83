// Objects remembered by what tensors look like: a memo whose lookup costs less than one in Python.
#pragma once

#include <pybind11/pybind11.h>

namespace fastconv::python {

void add_forms(pybind11::module_&);

}  // namespace fastconv::python
