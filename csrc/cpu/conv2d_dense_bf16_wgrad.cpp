// wgrad of dense gradients of bfloat16 in pairs (terms.h), for sets that multiply pairs.
#include "conv2d_dense_wgrad.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr const char* pairs_condition = "bfloat16 gradients without a code, of filters that fill vectors";

bool takes_pairs(const Conv2dProblem& problem) { return problem.dtype == DType::bfloat16 && takes<bfloat16>(problem); }

}  // namespace

extern const Implementation<WgradArgs> dense_bf16_wgrad;
const Implementation<WgradArgs> dense_bf16_wgrad = {"dense_bf16",        pairs_condition, takes_pairs,
                                                    workspace<bfloat16>, nullptr,         run<bfloat16>};

}  // namespace fastconv::cpu::FASTCONV_ISA
