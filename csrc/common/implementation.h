// An implementation is one way to compute one direction of a convolution, on CPUs or on GPUs. Each kind of device has
// one ordered list of them per direction (cpu/kernel_set.cpp, cuda/dispatch.cpp), and choose() picks from it. This is
// plain data without functions, see geometry.h.
#pragma once

#include "geometry.h"

namespace fastconv {

// Launch is a kernel's arguments besides its tensors. `workspace` is aligned to 64 bytes on CPUs and to 256 on GPUs;
// its content is undefined. CPUs ignore `stream`.
struct Launch {
    void* workspace;
    void* stream;
};

template <class Args>
struct Implementation {
    const char* name;       // at most one of this name takes a problem; saved tables refer to it
    const char* condition;  // the condition of `takes` in words, which FASTCONV_VERBOSE=2 prints
    bool (*takes)(const Conv2dProblem&);
    size_t (*workspace)(const Conv2dProblem&);  // bytes
    double (*cost)(const Conv2dProblem&);       // estimated cycles; null: 0, so the list's order decides
    void (*run)(const Conv2dProblem&, const Args&, const Launch&);  // on GPUs throws std::runtime_error
    bool exact = true;  // up to the order of sums; false: Winograd, for precision "high" alone
};

}  // namespace fastconv
