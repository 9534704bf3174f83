// The direct kernels for fprop and dgrad of bfloat16 in pairs (terms.h), for sets that multiply pairs.
#include "conv2d_direct_dgrad.h"
#include "conv2d_direct_fprop.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr const char* pairs_condition =
    "bfloat16, in groups whose filters fill a quarter of a vector, and rows of a sane size";
constexpr const char* pairs_dgrad_condition =
    "bfloat16 gradients without a code, and a stride whose phases the forward kernel takes";

bool takes_pairs(const Conv2dProblem& problem) { return problem.dtype == DType::bfloat16 && takes<bfloat16>(problem); }

}  // namespace

extern const Implementation<FpropArgs> direct_bf16_fprop;
const Implementation<FpropArgs> direct_bf16_fprop = {"direct_bf16",       pairs_condition, takes_pairs,
                                                     workspace<bfloat16>, nullptr,         run<bfloat16>};

using Dgrad = DirectDgrad<direct_bf16_fprop>;
extern const Implementation<DgradArgs> direct_bf16_dgrad;
const Implementation<DgradArgs> direct_bf16_dgrad = {
    "direct_bf16", pairs_dgrad_condition, Dgrad::takes, Dgrad::workspace, nullptr, Dgrad::run};

}  // namespace fastconv::cpu::FASTCONV_ISA
