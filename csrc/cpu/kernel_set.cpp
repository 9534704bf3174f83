// The set of one instruction set. Compiled with its flags, so this file holds data and a test only.
#include "isa_kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

#define FASTCONV_STRING_(text) #text
#define FASTCONV_STRING(text) FASTCONV_STRING_(text)

bool runs_here() {
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c");
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return true;
#endif
}

}  // namespace

extern const KernelSet set;
// Not constant-initialised elsewhere: the addresses below are link-time constants.
const KernelSet set = {FASTCONV_STRING(FASTCONV_ISA),
                       runs_here,
                       winograd_fprop,
                       direct_fprop,
                       winograd_dgrad,
                       direct_dgrad,
                       live_dgrad,
                       winograd_wgrad,
                       dense_wgrad,
                       live_wgrad,
                       depthwise_fprop,
                       depthwise_dgrad,
                       depthwise_wgrad,
                       relu_fprop,
                       relu_bprop,
                       max_pool2d_fprop,
                       max_pool2d_bprop};

}  // namespace fastconv::cpu::FASTCONV_ISA
