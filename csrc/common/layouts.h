// layouts_of() returns the Layouts (geometry.h) of a convolution's tensors, for the code that calls kernels.
#pragma once

#include "geometry.h"

namespace fastconv {

Layouts layouts_of(const Conv2d&, const FpropArgs&);
Layouts layouts_of(const Conv2d&, const DgradArgs&);
Layouts layouts_of(const Conv2d&, const WgradArgs&);

// The same for tensors that do not exist yet: dense ones, at addresses that are multiples of `alignment`.
Layouts dense_layouts(const Conv2d&, DType, bool channels_inside, int alignment);

bool operator==(const Layouts&, const Layouts&);

}  // namespace fastconv
