// These functions check the buffers that Python passes and make the kernels' tensors of them. All throw
// std::invalid_argument.
#pragma once

#include "buffer.h"

namespace fastconv::python {

// The strides that a device's kernels take: any, or only dense NCHW and NHWC.
enum class Strides { any, dense };

void expect_floating_point(DType, const char* name);

Tensor tensor_of(Strides, const Buffer&, const char* name);

// The tensor of a buffer; null data for None.
Tensor optional_tensor(Strides, const OptionalBuffer&, const char* name, DType, const std::vector<int64_t>& size);

// A dense array of `count` elements, seen as one dimension.
Tensor flat_tensor(const pybind11::tuple&, const char* name, DType, int64_t count);

// padded_workspace: bytes that Python allocates for `needed` bytes, with room to align. workspace_address: the address
// of that allocation. aligned: that address, aligned.
size_t padded_workspace(size_t needed, size_t alignment);
void* workspace_address(const pybind11::tuple& spec, size_t needed, size_t alignment);
void* aligned(void* address, size_t alignment);

}  // namespace fastconv::python
