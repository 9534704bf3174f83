// The geometry of a call, made of Python's numbers and checked.
#pragma once

#include "buffer.h"

namespace fastconv::python {

// conv: (stride_h, stride_w, pad_top, pad_bottom, pad_left, pad_right, dilation_h, dilation_w, groups);
// pool: (window_h, window_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w), its ceil_mode
// shows in y_size. Sizes are those of x, w and of y, which is the pooled output where there is a pool.
// Throws std::invalid_argument where they do not fit together.
Conv2dProblem make_problem(DType dtype, const std::vector<int64_t>& x_size, const std::vector<int64_t>& w_size,
                           const std::vector<int64_t>& y_size, const pybind11::tuple& conv,
                           const std::optional<pybind11::tuple>& pool, bool relu);

// How often a window that covers `extent` fits into `padded` with this stride.
int64_t output_size(int64_t padded, int64_t extent, int64_t stride);

Pool2d make_pool(const pybind11::tuple& pool, const std::vector<int64_t>& x_size, const std::vector<int64_t>& y_size);

}  // namespace fastconv::python
