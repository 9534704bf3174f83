// A prepared call takes addresses or tensors and checks only their addresses.
#include "prepared_call.h"

#include <stdexcept>

#include "buffer.h"

namespace py = pybind11;

namespace fastconv::python {

// Asking a tensor for its address takes half as long here as in Python.
static uintptr_t address_of_tensor(const py::handle& value, const char* name) {
    static PyObject* const data_ptr = PyUnicode_InternFromString("data_ptr");
    if (PyLong_Check(value.ptr()) || value.is_none()) return address_of(value, name);
    const auto address = py::reinterpret_steal<py::object>(PyObject_CallMethodNoArgs(value.ptr(), data_ptr));
    if (!address && PyErr_ExceptionMatches(PyExc_AttributeError)) {
        PyErr_Clear();
        throw std::invalid_argument(std::string(name) + " must be a tensor or an address, got " +
                                    std::string(py::str(py::repr(value))));
    }
    if (!address) throw py::error_already_set();
    return address_of(address, name);
}

void PreparedCall::add(const char* name, const Tensor& tensor) {
    slots_.push_back({name, tensor.data ? size_of(tensor.dtype) : 0});
}

void PreparedCall::operator()(const py::args& given) const {
    const size_t count = slots_.size() + size_t(has_stream_);
    if (given.size() != count)
        throw std::invalid_argument("expected " + std::to_string(count) + " addresses, got " +
                                    std::to_string(given.size()));
    std::vector<void*> addresses(slots_.size());
    for (size_t i = 0; i < slots_.size(); ++i) {
        const Slot& slot = slots_[i];
        if (slot.alignment)
            addresses[i] = checked_address(address_of_tensor(given[i], slot.name), slot.alignment, slot.name);
    }
    run_(addresses, has_stream_ ? reinterpret_cast<void*>(address_of(given[slots_.size()], "stream")) : nullptr);
}

void add_prepared_call(py::module_& m) {
    // module_local, because the tests load more than one module with these entries.
    py::class_<PreparedCall>(m, "PreparedCall", "The call of an entry, checked, to be made for other addresses.",
                             py::module_local())
        .def("__call__", &PreparedCall::operator());
}

}  // namespace fastconv::python
