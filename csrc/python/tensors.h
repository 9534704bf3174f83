// The kernels' tensors, made of the buffers that Python passes and checked. All of it throws std::invalid_argument.
#pragma once

#include "buffer.h"

namespace fastconv::python {

// What a device's kernels take: tensors of any strides, or dense ones, NCHW or NHWC.
enum class Strides { any, dense };

void expect_floating_point(DType, const char* name);

Tensor tensor_of(Strides, const Buffer&, const char* name);

// Of a buffer that may be None, which gives null data.
Tensor optional_tensor(Strides, const OptionalBuffer&, const char* name, DType, const std::vector<int64_t>& size);

// A dense array of `count` elements, seen as one dimension.
Tensor flat_tensor(const pybind11::tuple&, const char* name, DType, int64_t count);

// `needed` bytes of workspace as Python has to bring them, with room to align; the address of such; and it aligned.
size_t padded_workspace(size_t needed, size_t alignment);
void* workspace_address(const pybind11::tuple& spec, size_t needed, size_t alignment);
void* aligned(void* address, size_t alignment);

}  // namespace fastconv::python
