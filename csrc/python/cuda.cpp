// The entries of the CUDA kernels. Their last arguments are the tensors' device and its current stream. Convolutions
// also take whether TF32 is allowed and an implementation's name. The tests' module of emulated kernels is compiled
// from the same source.
#include <climits>
#include <stdexcept>

#include "conv2d.h"
#include "cuda_device.h"
#include "entries.h"
#include "max_pool2d.h"
#include "relu.h"

namespace py = pybind11;

namespace fastconv::python {

int checked_device(int64_t device) {
    if (device < 0 || device > INT_MAX)
        throw std::invalid_argument("device must not be negative, got " + std::to_string(device));
    return int(device);
}

void add_cuda_entries(py::module_& m) {
    add_conv2d<Cuda>(m);
    add_relu<Cuda>(m);
    add_max_pool2d<Cuda>(m);
    // Returns the number of devices, the reason if there is none, and whether the answer may change later.
    m.def("cuda_device_count", [] {
        const auto [count, answer] = simt::device_count();
        return py::make_tuple(count, answer.error, answer.passing);
    });
    // Returns the reason why the kernels do not run on a device ("" if they do), and whether the answer may change
    // later.
    m.def(
        "cuda_why_not_on",
        [](int64_t device) {
            const auto [error, passing] = simt::runs_on(checked_device(device));
            return py::make_tuple(error, passing);
        },
        py::arg("device"));
}

}  // namespace fastconv::python
