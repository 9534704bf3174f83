// Reads the level of FASTCONV_VERBOSE and prints its lines.
#include "verbose.h"

#include <pybind11/pybind11.h>

#include <cstdio>
#include <cstdlib>
#include <stdexcept>

namespace py = pybind11;

namespace fastconv::python {

int verbose_level = 0;

void read_verbose_level() {
    const char* text = std::getenv("FASTCONV_VERBOSE");
    const std::string value = text && *text ? text : "0";
    if (value != "0" && value != "1" && value != "2")
        throw std::invalid_argument("FASTCONV_VERBOSE must be 0, 1 or 2, got " + value);
    verbose_level = value[0] - '0';
}

void print_call(const CallText& call, const std::string& device, double microseconds) {
    std::string lines = "fastconv: " + call.operation + ' ' + call.problem + ' ' + device + ' ' + call.implementation;
    if (microseconds >= 0) {
        char time[32];
        std::snprintf(time, sizeof time, " %.1f us", microseconds);
        lines += time;
    }
    lines += '\n';
    for (const std::string& line : call.passed_over) lines += "fastconv:     not " + line + '\n';
    try {
        const py::object out = py::module_::import("sys").attr("stderr");
        if (!out.is_none()) out.attr("write")(lines);  // one write, since other threads write too
    } catch (const py::error_already_set& error) {
        // The kernel has run: a closed stderr is no reason for its call to fail.
        if (!error.matches(PyExc_Exception)) throw;  // Ctrl-C
    }
}

}  // namespace fastconv::python
