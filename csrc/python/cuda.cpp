// The entries of the CUDA kernels: the CPU's arguments up to the last, which are the tensors' device, that device's
// current stream and, for convolutions, whether TF32 is allowed and an implementation's name. The same source makes the
// module in which tests call emulated kernels.
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
    // Why there is none ("" where there is one), and whether another answer may come later.
    m.def("cuda_device_count", [] {
        const auto [count, answer] = simt::device_count();
        return py::make_tuple(count, answer.error, answer.passing);
    });
    // Why the kernels do not run on that device ("" where they do), and whether another answer may come later.
    m.def(
        "cuda_why_not_on",
        [](int64_t device) {
            const auto [error, passing] = simt::runs_on(checked_device(device));
            return py::make_tuple(error, passing);
        },
        py::arg("device"));
}

}  // namespace fastconv::python
