// The direct kernels for fprop and dgrad of bfloat16 in pairs (terms.h), for sets that multiply pairs.
#include "conv2d_direct_dgrad.h"
#include "conv2d_direct_fprop.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

bool takes_pairs(const Conv2dProblem& problem) { return problem.dtype == DType::bfloat16 && takes<bfloat16>(problem); }

}  // namespace

extern const Implementation<FpropArgs> direct_bf16_fprop;
const Implementation<FpropArgs> direct_bf16_fprop = {"direct_bf16",       fprop_condition, takes_pairs,
                                                     workspace<bfloat16>, nullptr,         run<bfloat16>};

using Dgrad = DirectDgrad<direct_bf16_fprop>;
extern const Implementation<DgradArgs> direct_bf16_dgrad;
const Implementation<DgradArgs> direct_bf16_dgrad = {"direct_bf16",    dgrad_condition, Dgrad::takes,
                                                     Dgrad::workspace, nullptr,         Dgrad::run};

}  // namespace fastconv::cpu::FASTCONV_ISA
