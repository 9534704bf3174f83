// The direct kernels for fprop and dgrad in float32 and float64. 16-bit tensors are widened where they are packed.
#include "conv2d_direct_dgrad.h"
#include "conv2d_direct_fprop.h"

namespace fastconv::cpu::FASTCONV_ISA {

extern const Implementation<FpropArgs> direct_fprop;
const Implementation<FpropArgs> direct_fprop = {"direct",
                                                fprop_condition,
                                                by_type<takes<float>, takes<double>>,
                                                by_type<workspace<float>, workspace<double>>,
                                                nullptr,
                                                by_type<run<float>, run<double>>};

using Dgrad = DirectDgrad<direct_fprop>;
extern const Implementation<DgradArgs> direct_dgrad;
const Implementation<DgradArgs> direct_dgrad = {"direct",         dgrad_condition, Dgrad::takes,
                                                Dgrad::workspace, nullptr,         Dgrad::run};

}  // namespace fastconv::cpu::FASTCONV_ISA
