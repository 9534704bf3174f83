// The entries of fastconv._C for CUDA, run by the emulator, and its settings.
#include <pybind11/pybind11.h>

#include "../../../csrc/emulator/counters.h"
#include "../../../csrc/emulator/state.h"
#include "../../../csrc/python/entries.h"
#include "../../../csrc/python/prepared_call.h"
#include "../../../csrc/python/verbose.h"

namespace py = pybind11;
using namespace fastconv;

PYBIND11_MODULE(MODULE, m) {
    python::read_verbose_level();
    python::add_prepared_call(m);
    python::add_cuda_entries(m);
    m.def(
        "configure",
        [](int schedule, unsigned seed, bool late_copies, bool count) {
            emulator::settings = {emulator::Schedule(schedule), seed, late_copies, count};
        },
        py::arg("schedule"), py::arg("seed"), py::arg("late_copies"), py::arg("count"));
    m.def("take_counters", emulator::take_counters);
    m.def("take_launches", emulator::take_launches);
    m.def("take_traffic", emulator::take_traffic);
}
