// wgrad of dense gradients in float32 and float64. 16-bit tensors are widened where they are packed.
#include "conv2d_dense_wgrad.h"

namespace fastconv::cpu::FASTCONV_ISA {

extern const Implementation<WgradArgs> dense_wgrad;
const Implementation<WgradArgs> dense_wgrad = {"dense",
                                               condition,
                                               by_type<takes<float>, takes<double>>,
                                               by_type<workspace<float>, workspace<double>>,
                                               nullptr,
                                               by_type<run<float>, run<double>>};

}  // namespace fastconv::cpu::FASTCONV_ISA
