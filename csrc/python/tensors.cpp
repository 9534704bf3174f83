#include "tensors.h"

#include <stdexcept>

namespace py = pybind11;

namespace fastconv::python {

void expect_floating_point(DType dtype, const char* name) {
    if (dtype == DType::float32 || dtype == DType::float64) return;
    if (dtype == DType::float16 || dtype == DType::bfloat16) return;
    throw std::invalid_argument(std::string(name) + " must be float32, float64, float16 or bfloat16, got " +
                                name_of(dtype));
}

// torch may give a dimension of size 1 any stride. A dense tensor gets the stride of its memory format.
Tensor tensor_of(Strides strides, const Buffer& buffer, const char* name) {
    Tensor t = buffer.tensor();
    if (strides == Strides::any) return t;
    constexpr int orders[2][4] = {{3, 2, 1, 0}, {1, 3, 2, 0}};  // NCHW and NHWC, innermost first
    for (const auto& order : orders) {
        int64_t dense[4], step = 1;
        bool fits = true;
        for (const int d : order) {
            dense[d] = step;
            fits = fits && (t.size[d] <= 1 || t.stride[d] == step);
            step *= t.size[d] ? t.size[d] : 1;
        }
        if (!fits && buffer.count() != 0) continue;
        for (int d = 0; d < 4; ++d) t.stride[d] = dense[d];
        return t;
    }
    throw std::invalid_argument(std::string(name) + " must be contiguous or channels_last, got sizes " +
                                text(buffer.size) + " and strides " + text(buffer.stride));
}

Tensor optional_tensor(Strides strides, const OptionalBuffer& spec, const char* name, DType dtype,
                       const std::vector<int64_t>& size) {
    if (!spec) return {};
    const Buffer buffer(*spec, name);
    buffer.expect_dtype(dtype, name);
    buffer.expect_size(size, name);
    if (size.size() == 4) return tensor_of(strides, buffer, name);
    if (strides == Strides::dense && size.size() == 1 && size[0] > 1 && buffer.stride[0] != 1)
        throw std::invalid_argument(std::string(name) + " must be contiguous");
    return buffer.tensor();
}

Tensor flat_tensor(const py::tuple& spec, const char* name, DType dtype, int64_t count) {
    const Buffer buffer(spec, name);
    buffer.expect_dtype(dtype, name);
    buffer.expect_size({count}, name);
    if (count > 1 && buffer.stride[0] != 1)
        throw std::invalid_argument(std::string(name) + " must be dense, got stride " +
                                    std::to_string(buffer.stride[0]));
    return buffer.tensor();
}

size_t padded_workspace(size_t needed, size_t alignment) { return needed ? needed + alignment : 0; }

void* workspace_address(const py::tuple& spec, size_t needed, size_t alignment) {
    const size_t bytes = padded_workspace(needed, alignment);
    const Buffer buffer(spec, "workspace");
    buffer.expect_dtype(DType::uint8, "workspace");
    if (buffer.size.size() != 1 || size_t(buffer.size[0]) < bytes)
        throw std::invalid_argument("workspace must hold " + std::to_string(bytes) + " bytes, got " +
                                    text(buffer.size));
    return buffer.data;
}

void* aligned(void* address, size_t alignment) {
    const auto first = reinterpret_cast<uintptr_t>(address);
    return reinterpret_cast<void*>((first + alignment - 1) / alignment * alignment);
}

}  // namespace fastconv::python
