#include "buffer.h"

#include <stdexcept>

namespace py = pybind11;

namespace fastconv::python {

std::string text(const std::vector<int64_t>& values) {
    std::string s = "[";
    for (size_t i = 0; i < values.size(); ++i) s += (i ? ", " : "") + std::to_string(values[i]);
    return s + "]";
}

size_t size_of(DType dtype) {
    switch (dtype) {
        case DType::float32: return 4;
        case DType::float64: return 8;
        case DType::uint8: return 1;
        case DType::int32: return 4;
        case DType::float16: return 2;
        case DType::bfloat16: return 2;
    }
    return 0;
}

const char* name_of(DType dtype) {
    switch (dtype) {
        case DType::float32: return "float32";
        case DType::float64: return "float64";
        case DType::uint8: return "uint8";
        case DType::int32: return "int32";
        case DType::float16: return "float16";
        case DType::bfloat16: return "bfloat16";
    }
    return "?";
}

DType checked_dtype(int64_t code, const char* name) {
    if (code < 0 || code > 5)
        throw std::invalid_argument(std::string(name) + ": dtype must be 0 to 5, got " + std::to_string(code));
    return DType(code);
}

static int64_t integer(const py::handle& value, const char* name) {
    try {
        return value.cast<int64_t>();
    } catch (const py::cast_error&) {
        throw std::invalid_argument(std::string(name) + " must hold integers of 64 bits, got " +
                                    std::string(py::str(py::repr(value))));
    }
}

std::vector<int64_t> integers(const py::handle& sequence, const char* name, size_t length) {
    if (!py::isinstance<py::tuple>(sequence))
        throw std::invalid_argument(std::string(name) + " must be a tuple, got " +
                                    std::string(py::str(py::repr(sequence))));
    const auto items = py::reinterpret_borrow<py::tuple>(sequence);
    if (length && items.size() != length)
        throw std::invalid_argument(std::string(name) + " must have " + std::to_string(length) + " values, got " +
                                    std::to_string(items.size()));
    std::vector<int64_t> values;
    values.reserve(items.size());
    for (const auto& item : items) values.push_back(integer(item, name));
    return values;
}

uintptr_t address_of(const py::handle& value, const char* name) {
    // Only an integer becomes an address: Python would round a float.
    if (!PyLong_Check(value.ptr())) throw std::invalid_argument(std::string(name) + ": data_ptr must be an integer");
    const size_t address = PyLong_AsSize_t(value.ptr());
    if (address == size_t(-1) && PyErr_Occurred()) {
        PyErr_Clear();
        throw std::invalid_argument(std::string(name) + ": data_ptr is not an address");
    }
    return address;
}

void* checked_address(uintptr_t address, size_t alignment, const char* name) {
    if (address == 0) throw std::invalid_argument(std::string(name) + ": null pointer");
    if (address % alignment != 0)
        throw std::invalid_argument(std::string(name) + ": address is not aligned to its dtype");
    return reinterpret_cast<void*>(address);
}

Buffer::Buffer(const py::tuple& spec, const char* name) {
    if (spec.size() != 5)
        throw std::invalid_argument(std::string(name) + " must be (data_ptr, nbytes, dtype, sizes, strides), got " +
                                    std::to_string(spec.size()) + " values");
    const uintptr_t address = address_of(spec[0], name);
    const int64_t bytes = integer(spec[1], name);
    dtype = checked_dtype(integer(spec[2], name), name);
    size = integers(spec[3], name, 0);
    stride = integers(spec[4], name, 0);
    if (size.size() != stride.size())
        throw std::invalid_argument(std::string(name) + ": sizes " + text(size) + " and strides " + text(stride) +
                                    " must be of equal length");
    int64_t last = 0;  // the largest offset, in elements
    bool empty = false, overflow = false;
    for (size_t i = 0; i < size.size(); ++i) {
        if (size[i] < 0 || stride[i] < 0)
            throw std::invalid_argument(std::string(name) + ": sizes and strides must not be negative, got " +
                                        text(size) + " and " + text(stride));
        if (size[i] == 0) empty = true;
        int64_t step;
        overflow |= __builtin_mul_overflow(size[i] ? size[i] - 1 : 0, stride[i], &step);
        overflow |= __builtin_add_overflow(last, step, &last);
    }
    int64_t elements = int64_t(size_of(dtype)), end;
    for (int64_t s : size) overflow |= __builtin_mul_overflow(elements, s, &elements);
    overflow |= __builtin_add_overflow(last, int64_t(1), &end);
    overflow |= __builtin_mul_overflow(end, int64_t(size_of(dtype)), &end);
    if (empty) return;
    // Overlapping elements (stride 0) are refused too, since an output would be written twice.
    if (overflow || bytes < end || bytes < elements)
        throw std::invalid_argument(std::string(name) + ": sizes " + text(size) + " with strides " + text(stride) +
                                    " reach beyond its " + std::to_string(bytes) + " bytes");
    data = checked_address(address, size_of(dtype), name);
}

void Buffer::expect_dtype(DType wanted, const char* name) const {
    if (dtype != wanted)
        throw std::invalid_argument(std::string(name) + " must be " + name_of(wanted) + ", got " + name_of(dtype));
}

void Buffer::expect_size(const std::vector<int64_t>& wanted, const char* name) const {
    if (size != wanted)
        throw std::invalid_argument(std::string(name) + " must have shape " + text(wanted) + ", got " + text(size));
}

int64_t Buffer::count() const {
    int64_t n = 1;
    for (int64_t s : size) n *= s;
    return n;
}

Tensor Buffer::tensor() const {
    Tensor t;
    t.data = data;
    t.dtype = dtype;
    for (size_t i = 0; i < size.size() && i < 4; ++i) {
        t.size[i] = size[i];
        t.stride[i] = stride[i];
    }
    return t;
}

}  // namespace fastconv::python
