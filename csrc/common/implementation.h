// An implementation is one way to compute one direction of a convolution, on CPUs or on GPUs. Each kind of device has
// one ordered list of them a direction (cpu/kernel_set.cpp, cuda/dispatch.cpp); choose() in choose.h picks from it.
// Plain data, no functions: see geometry.h.
#pragma once

#include "geometry.h"

namespace fastconv {

// What a kernel gets besides its tensors. `workspace` is aligned to 64 bytes on CPUs and to 256 on GPUs, its content
// undefined. `stream` is the GPU's; CPUs ignore it.
struct Launch {
    void* workspace;
    void* stream;
};

template <class Args>
struct Implementation {
    const char* name;       // unique among those that take a problem; saved tables name it
    const char* condition;  // what `takes` asks for, in words: FASTCONV_VERBOSE=2 prints it
    bool (*takes)(const Conv2dProblem&);
    size_t (*workspace)(const Conv2dProblem&);  // bytes
    double (*cost)(const Conv2dProblem&);       // estimated cycles; null: 0, so that the list's order decides
    void (*run)(const Conv2dProblem&, const Args&, const Launch&);  // on GPUs throws std::runtime_error
    bool exact = true;  // up to the order of sums; false: Winograd, only where precision is "high"
};

}  // namespace fastconv
