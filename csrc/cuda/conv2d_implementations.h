// The convolution implementations in the .cu files, which dispatch.cpp puts into its lists.
#pragma once

#include "../common/choose.h"

namespace fastconv::cuda {

Implementations<FpropArgs> fprop_tiles();       // conv2d_fprop.cu
Implementations<FpropArgs> fprop_pool_tiles();  // conv2d_fprop_pool.cu
extern const Implementation<FpropArgs> few_channels_fprop;

Implementations<DgradArgs> dgrad_tiles();

Implementations<WgradArgs> wgrad_tiles();
extern const Implementation<WgradArgs> few_channels_wgrad;
extern const Implementation<WgradArgs> pool2x2_wgrad, sparse_pool2x2_wgrad;

}  // namespace fastconv::cuda
