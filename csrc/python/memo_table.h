// A memo table keeps objects by the sizes, strides and dtypes of tensors. Its lookup is faster than one in Python.
#pragma once

#include <pybind11/pybind11.h>

namespace fastconv::python {

void add_memo_table(pybind11::module_&);

}  // namespace fastconv::python
