// A Buffer is a tensor that Python passes as a tuple of numbers. It is checked before a kernel sees it.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "../common/geometry.h"

namespace fastconv::python {

// The tuple is (data_ptr, nbytes, dtype, sizes, strides). The constructor throws std::invalid_argument if an element
// lies outside the given bytes, the address is null or misaligned, or a size or stride is negative.
struct Buffer {
    void* data = nullptr;
    DType dtype = DType::float32;
    std::vector<int64_t> size, stride;

    Buffer(const pybind11::tuple& spec, const char* name);

    void expect_dtype(DType wanted, const char* name) const;
    void expect_size(const std::vector<int64_t>& wanted, const char* name) const;
    int64_t count() const;
    Tensor tensor() const;  // sizes and strides of up to four dimensions, in order
};

using OptionalBuffer = std::optional<pybind11::tuple>;

// address_of converts a Python integer to an address. checked_address refuses null and misaligned ones.
uintptr_t address_of(const pybind11::handle& value, const char* name);
void* checked_address(uintptr_t address, size_t alignment, const char* name);

std::string text(const std::vector<int64_t>& values);
size_t size_of(DType dtype);
const char* name_of(DType dtype);
DType checked_dtype(int64_t code, const char* name);
std::vector<int64_t> integers(const pybind11::handle& sequence, const char* name, size_t length);

}  // namespace fastconv::python
