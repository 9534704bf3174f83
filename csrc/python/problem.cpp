// The checks of a call's geometry. Ranges are checked first, so no later sum or product overflows.
#include "problem.h"

#include <stdexcept>

namespace py = pybind11;

namespace fastconv::python {

// Every size and parameter stays below this limit, so products of two and sums of several never overflow.
constexpr int64_t limit = int64_t(1) << 30;

static void check_range(const std::vector<int64_t>& values, size_t first, size_t last, int64_t least,
                        const char* what) {
    for (size_t i = first; i < last; ++i)
        if (values[i] < least || values[i] >= limit)
            throw std::invalid_argument(std::string(what) + " must be between " + std::to_string(least) + " and " +
                                        std::to_string(limit - 1) + ", got " + std::to_string(values[i]));
}

int64_t output_size(int64_t padded, int64_t extent, int64_t stride) {
    return padded < extent ? 0 : (padded - extent) / stride + 1;
}

Pool2d make_pool(const py::tuple& spec, const std::vector<int64_t>& x_size, const std::vector<int64_t>& y_size) {
    const auto v = integers(spec, "pool", 8);
    check_range(v, 0, 4, 1, "pool window and stride");
    check_range(v, 4, 6, 0, "pool padding");
    check_range(v, 6, 8, 1, "pool dilation");
    if (x_size.size() != 4 || y_size.size() != 4)
        throw std::invalid_argument("pool: x and y must have 4 dimensions, got " + text(x_size) + " and " +
                                    text(y_size));
    check_range(x_size, 0, 4, 0, "sizes of x");
    check_range(y_size, 0, 4, 0, "sizes of y");
    Pool2d pool{v[0], v[1], v[2], v[3], v[4], v[5], v[6], v[7], y_size[2], y_size[3]};
    if (2 * pool.pad_h > pool.window_h || 2 * pool.pad_w > pool.window_w)
        throw std::invalid_argument("pool padding must be at most half the window");
    if (pool.window_h * pool.window_w >= int64_t(1) << 31)
        throw std::invalid_argument("pool windows have fewer than 2^31 positions, got " + text({v[0], v[1]}));
    for (int i = 0; i < 2; ++i) {
        if (y_size[size_t(i)] != x_size[size_t(i)])
            throw std::invalid_argument("pool: x and y must agree in their first two sizes, got " + text(x_size) +
                                        " and " + text(y_size));
        const int64_t padded = x_size[size_t(i) + 2] + 2 * v[size_t(i) + 4];
        const int64_t extent = (v[size_t(i)] - 1) * v[size_t(i) + 6] + 1, stride = v[size_t(i) + 2];
        // ceil_mode adds at most one window.
        const int64_t least = output_size(padded, extent, stride);
        const int64_t size = y_size[size_t(i) + 2];
        if (size < least || size > output_size(padded + stride - 1, extent, stride))
            throw std::invalid_argument("pool of " + text(x_size) + " cannot give " + text(y_size));
    }
    return pool;
}

Conv2dProblem make_problem(DType dtype, const std::vector<int64_t>& x_size, const std::vector<int64_t>& w_size,
                           const std::vector<int64_t>& y_size, const py::tuple& conv_spec,
                           const std::optional<py::tuple>& pool, bool relu) {
    if (x_size.size() != 4 || w_size.size() != 4 || y_size.size() != 4)
        throw std::invalid_argument("x, w and y must have 4 dimensions, got " + text(x_size) + ", " + text(w_size) +
                                    " and " + text(y_size));
    const auto v = integers(conv_spec, "conv", 9);
    check_range(v, 0, 2, 1, "stride");
    check_range(v, 2, 6, 0, "padding");
    check_range(v, 6, 8, 1, "dilation");
    check_range(v, 8, 9, 1, "groups");
    check_range(x_size, 0, 4, 0, "sizes of x");
    check_range(w_size, 0, 2, 0, "sizes of w");
    check_range(w_size, 2, 4, 1, "kernel size");
    check_range(y_size, 0, 4, 0, "sizes of y");
    Conv2d conv{};
    conv.N = x_size[0], conv.C = x_size[1], conv.H = x_size[2], conv.W = x_size[3];
    conv.K = w_size[0], conv.R = w_size[2], conv.S = w_size[3];
    conv.stride_h = v[0], conv.stride_w = v[1], conv.pad_h = v[2], conv.pad_w = v[4];
    conv.dilation_h = v[6], conv.dilation_w = v[7], conv.groups = v[8];
    conv.P = output_size(conv.H + v[2] + v[3], (conv.R - 1) * conv.dilation_h + 1, conv.stride_h);
    conv.Q = output_size(conv.W + v[4] + v[5], (conv.S - 1) * conv.dilation_w + 1, conv.stride_w);
    if (conv.C % conv.groups || conv.K % conv.groups || w_size[1] != conv.C / conv.groups)
        throw std::invalid_argument("w " + text(w_size) + " does not fit x " + text(x_size) + " with " +
                                    std::to_string(conv.groups) + " groups");
    Conv2dProblem problem{dtype, conv, {}, {}, 1};
    problem.pool.P = conv.P, problem.pool.Q = conv.Q;
    if (pool && !relu) throw std::invalid_argument("a pool comes with relu");
    if (relu) problem.epilogue.activation = Activation::relu;
    if (pool) {
        check_range({conv.P, conv.Q}, 0, 2, 0, "sizes of the convolution's output");
        problem.epilogue.pooled = true;
        problem.pool = make_pool(*pool, {conv.N, conv.K, conv.P, conv.Q}, y_size);
        if (problem.pool.window_h * problem.pool.window_w > max_positions)
            throw std::invalid_argument("pool windows of a fused block have up to " + std::to_string(max_positions) +
                                        " positions, got " + std::to_string(problem.pool.window_h) + "x" +
                                        std::to_string(problem.pool.window_w));
    } else if (y_size != std::vector<int64_t>{conv.N, conv.K, conv.P, conv.Q}) {
        throw std::invalid_argument("y must have shape " + text({conv.N, conv.K, conv.P, conv.Q}) + ", got " +
                                    text(y_size));
    }
    return problem;
}

}  // namespace fastconv::python
