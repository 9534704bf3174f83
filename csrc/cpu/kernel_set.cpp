// The kernels of one instruction set, with an ordered list per direction. A new kernel is one line here. This file is
// compiled with the flags of that set, so it holds only data and a test.
#include "isa_kernels.h"

// FASTCONV_BF16_PAIRS: the set adds the kernels of bfloat16 pairs. FASTCONV_TILES: also those on matrix tiles, 1 of AMX
// and 2 of the portable twin.
#if defined(FASTCONV_BF16_PAIRS)
#define FASTCONV_WITH_PAIRS(kernel) &kernel,
#else
#define FASTCONV_WITH_PAIRS(kernel)
#endif
#if defined(FASTCONV_TILES)
#define FASTCONV_WITH_TILES(kernel) &kernel,
#else
#define FASTCONV_WITH_TILES(kernel)
#endif

namespace fastconv::cpu::FASTCONV_ISA {

using namespace FASTCONV_BASE;

namespace {

#define FASTCONV_STRING_(text) #text
#define FASTCONV_STRING(text) FASTCONV_STRING_(text)

bool runs_here() {
#if defined(__AVX512F__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c")
#if defined(__AVX512BF16__)
           && __builtin_cpu_supports("avx512bf16")
#endif
#if FASTCONV_TILES == 1
           && __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16")
#endif
        ;
#elif defined(__AVX2__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#else
    return true;
#endif
}

// clang-format off
const Implementation<FpropArgs>* const fprop[] = {
    &depthwise_fprop, &grouped_fprop,
    FASTCONV_WITH_TILES(tiles_bf16_fprop) FASTCONV_WITH_TILES(tiles_fprop)
    &winograd_fprop, FASTCONV_WITH_PAIRS(direct_bf16_fprop) &direct_fprop, nullptr};
const Implementation<DgradArgs>* const dgrad[] = {
    &depthwise_dgrad, &grouped_dgrad,
    FASTCONV_WITH_TILES(tiles_bf16_dgrad) FASTCONV_WITH_TILES(tiles_dgrad)
    &winograd_dgrad, FASTCONV_WITH_PAIRS(direct_bf16_dgrad) &direct_dgrad, &live_dgrad, nullptr};
const Implementation<WgradArgs>* const wgrad[] = {
    &depthwise_wgrad, &grouped_wgrad,
    FASTCONV_WITH_TILES(tiles_bf16_wgrad)
    &winograd_wgrad, FASTCONV_WITH_PAIRS(dense_bf16_wgrad) &dense_wgrad, &live_wgrad, nullptr};
// clang-format on

}  // namespace

// The set holds addresses alone, so loading the module runs no code of this instruction set.
extern const KernelSet set;
const KernelSet set = {FASTCONV_STRING(FASTCONV_ISA),
                       runs_here,
                       fprop,
                       dgrad,
                       wgrad,
                       relu_fprop,
                       relu_bprop,
                       max_pool2d_fprop,
                       max_pool2d_bprop};

}  // namespace fastconv::cpu::FASTCONV_ISA
