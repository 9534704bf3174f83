// Builds a problem's name; fastconv/problem.py does the same in Python.
#include "problem_text.h"

#include <initializer_list>
#include <utility>

#include "problem.h"

namespace fastconv::python {

static std::string numbers(std::initializer_list<std::pair<const char*, int64_t>> values) {
    std::string text;
    for (const auto& [name, value] : values) text += name + std::to_string(value);
    return text;
}

static std::string x_text(int64_t n, int64_t c, int64_t h, int64_t w) {
    return numbers({{"mb", n}, {"ic", c}, {"ih", h}, {"iw", w}});
}

// h and w: sizes of the pool's input. ceil_mode is on if there are more windows than without it.
static std::string pool_text(const Pool2d& pool, int64_t h, int64_t w) {
    const auto more = [](int64_t windows, int64_t size, int64_t window, int64_t stride, int64_t pad, int64_t dilation) {
        return windows > output_size(size + 2 * pad, (window - 1) * dilation + 1, stride);
    };
    const bool ceil = more(pool.P, h, pool.window_h, pool.stride_h, pool.pad_h, pool.dilation_h) ||
                      more(pool.Q, w, pool.window_w, pool.stride_w, pool.pad_w, pool.dilation_w);
    return numbers({{"_pool", pool.window_h},
                    {"x", pool.window_w},
                    {"s", pool.stride_h},
                    {"x", pool.stride_w},
                    {"p", pool.pad_h},
                    {"x", pool.pad_w},
                    {"d", pool.dilation_h},
                    {"x", pool.dilation_w},
                    {"c", ceil}});
}

static std::string type_text(DType dtype, bool tf32) {
    switch (dtype) {
        case DType::float32: return tf32 ? "_tf32" : "_f32";
        case DType::float64: return "_f64";
        case DType::float16: return "_f16";
        default: return "_bf16";
    }
}

static const char* layout_text(bool channels_inside) { return channels_inside ? "_nhwc" : "_nchw"; }

std::string problem_text(const Conv2dProblem& problem, const std::vector<int64_t>& conv, bool bias) {
    const Conv2d& c = problem.conv;
    const int64_t bottom = conv[3], right = conv[5];
    std::string text = x_text(c.N, c.C, c.H, c.W);
    text += numbers({{"oc", c.K}, {"kh", c.R}, {"kw", c.S}, {"sh", c.stride_h}, {"sw", c.stride_w}});
    text += numbers({{"ph", c.pad_h}, {"pw", c.pad_w}, {"dh", c.dilation_h}, {"dw", c.dilation_w}});
    if (bottom != c.pad_h || right != c.pad_w) text += numbers({{"pb", bottom}, {"pr", right}});
    text += numbers({{"g", c.groups}});
    if (problem.epilogue.pooled) text += pool_text(problem.pool, c.P, c.Q);
    else if (problem.epilogue.activation == Activation::relu) text += "_relu";
    if (!bias) text += "_nobias";
    return text + type_text(problem.dtype, problem.tf32) + layout_text(problem.layouts.x.channels_inside);
}

std::string problem_text(const Tensor& x, const Pool2d& pool) {
    const bool channels_inside = x.size[1] > 1 && x.stride[1] == 1;
    return x_text(x.size[0], x.size[1], x.size[2], x.size[3]) + pool_text(pool, x.size[2], x.size[3]) +
           type_text(x.dtype, false) + layout_text(channels_inside);
}

std::string problem_text(DType dtype, int64_t relus) {
    return x_text(1, 1, 1, relus) + "_relu" + type_text(dtype, false) + layout_text(false);
}

}  // namespace fastconv::python
