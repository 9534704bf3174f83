// The module fastconv._C checks Python's arguments, releases the GIL and calls the kernels. It does not use torch.
#include <cuda_why.h>  // FASTCONV_CUDA_WHY, made by CMakeLists.txt
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../cpu/dispatch.h"
#include "entries.h"
#include "memo_table.h"
#include "prepared_call.h"
#include "verbose.h"

namespace py = pybind11;
using namespace fastconv;

namespace {

py::dict build_info() {
    std::vector<std::string> built, supported;
    for (const cpu::KernelSet* set : cpu::kernel_sets()) {
        built.push_back(set->name);
        if (set->runs_here()) supported.push_back(set->name);
    }
    py::dict info;
    info["version"] = FASTCONV_VERSION;
    info["compiler"] = FASTCONV_COMPILER;
    info["cuda"] = bool(FASTCONV_WITH_CUDA);
    info["cuda_why"] = FASTCONV_CUDA_WHY;
    info["cuda_targets"] = py::str(FASTCONV_CUDA_TARGETS).attr("split")();
    info["isas"] = built;
    info["isa"] = cpu::kernels().name;
    info["isas_supported"] = supported;
    return info;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
    m.doc() = "The kernels of fastconv. Tensors are (data_ptr, nbytes, dtype, sizes, strides); see CONTRIBUTING.md.";
    python::read_verbose_level();
    python::add_prepared_call(m);
    python::add_memo_table(m);
    python::add_cpu_entries(m);
    python::add_cuda_entries(m);
    m.def("build_info", build_info);
}
