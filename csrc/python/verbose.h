// FASTCONV_VERBOSE prints the calls of kernels on sys.stderr, one line each:
//     fastconv: conv2d_fprop mb1ic16ih8iw8oc16kh3kw3..._f32_nhwc cpu:avx512 winograd 42.1 us
//   1   as above; without the time on GPUs, where measuring it waits
//   2   with that time, by events; and a line for each implementation in front of the one that ran: why it did not
#pragma once

#include <string>
#include <vector>

namespace fastconv::python {

extern int verbose_level;  // 0: nothing is printed

// Reads the level from the environment, once, at import. Throws std::invalid_argument unless it is 0, 1 or 2.
void read_verbose_level();

// CallText is a call in words.
struct CallText {
    std::string operation, problem, implementation;
    std::vector<std::string> passed_over = {};  // implementations, and why
};

// microseconds: negative if not measured.
void print_call(const CallText&, const std::string& device, double microseconds);

// Runs a kernel on the device and prints the call if FASTCONV_VERBOSE is set. text() returns its CallText.
template <class Device, class Run, class Text>
void run_kernel(const Device& device, const char* operation, void* stream, const Run& run, const Text& text) {
    if (verbose_level == 0) return device.run(operation, stream, run);
    double microseconds = -1;
    device.run(operation, stream, [&](auto where) {
        typename Device::Timer timer(where);
        run(where);
        microseconds = timer.stop();
    });
    print_call(text(), device.name(), microseconds);
}

}  // namespace fastconv::python
