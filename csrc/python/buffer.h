// How Python hands memory over: tuples of plain numbers, checked here before a kernel sees them.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include "../common/geometry.h"

namespace fastconv::python {

// (data_ptr, nbytes, dtype, sizes, strides). Throws std::invalid_argument if an element lies outside of
// the bytes given, the address is null or misaligned, or a size or stride is negative.
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

// An address from Python's integer, and one that is neither null nor misaligned.
uintptr_t address_of(const pybind11::handle& value, const char* name);
void* checked_address(uintptr_t address, size_t alignment, const char* name);

std::string text(const std::vector<int64_t>& values);
size_t size_of(DType dtype);
const char* name_of(DType dtype);
DType checked_dtype(int64_t code, const char* name);
std::vector<int64_t> integers(const pybind11::handle& sequence, const char* name, size_t length);

}  // namespace fastconv::python
