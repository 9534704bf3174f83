// make_problem() checks the numbers that Python passes and makes a call's geometry of them.
#pragma once

#include "buffer.h"

namespace fastconv::python {

// conv: (stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, groups); pool:
// (window_h, window_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w); y_size tells its ceil_mode. With a
// pool, y is the pooled output. Throws std::invalid_argument if the sizes do not match.
Conv2dProblem make_problem(DType dtype, const std::vector<int64_t>& x_size, const std::vector<int64_t>& w_size,
                           const std::vector<int64_t>& y_size, const pybind11::tuple& conv,
                           const std::optional<pybind11::tuple>& pool, bool relu);

// The number of windows with this stride, each covering `extent` elements, that fit into `padded`.
int64_t output_size(int64_t padded, int64_t extent, int64_t stride);

Pool2d make_pool(const pybind11::tuple& pool, const std::vector<int64_t>& x_size, const std::vector<int64_t>& y_size);

}  // namespace fastconv::python
