// The list of CUDA implementations per direction, and the problems that are too large for all of them.
#include "dispatch.h"

#include "conv2d_implementations.h"
#include "refuse.h"

namespace fastconv::cuda {

namespace {

template <class Args>
Implementations<Args> joined(std::initializer_list<Implementations<Args>> parts) {
    Implementations<Args> list;
    for (const auto& part : parts) list.insert(list.end(), part.begin(), part.end());
    return list;
}

// The implementation for problems whose output has no elements.
template <class Args, bool (*is_empty)(const Conv2d&, const Pool2d&)>
constexpr Implementation<Args> empty = {"empty",
                                        "outputs without elements",
                                        [](const Conv2dProblem& p) { return is_empty(p.conv, p.pool); },
                                        [](const Conv2dProblem&) { return size_t(0); },
                                        nullptr,
                                        [](const Conv2dProblem&, const Args&, const Launch&) {}};

bool no_y(const Conv2d& c, const Pool2d& pool) { return c.N == 0 || c.K == 0 || pool.P == 0 || pool.Q == 0; }
bool no_dx(const Conv2d& c, const Pool2d&) { return c.N == 0 || c.C == 0 || c.H == 0 || c.W == 0; }
bool no_dw(const Conv2d& c, const Pool2d&) { return c.K == 0; }

}  // namespace

// A kernel for special problems has no cost in the model, so it wins over the tiles wherever it takes a problem.
template <>
const Implementations<FpropArgs>& implementations() {
    static const auto list =
        joined<FpropArgs>({{empty<FpropArgs, no_y>, few_channels_fprop}, fprop_tiles(), fprop_pool_tiles()});
    return list;
}
template <>
const Implementations<DgradArgs>& implementations() {
    static const auto list = joined<DgradArgs>({{empty<DgradArgs, no_dx>}, dgrad_tiles()});
    return list;
}
template <>
const Implementations<WgradArgs>& implementations() {
    static const auto list = joined<WgradArgs>(
        {{empty<WgradArgs, no_dw>, few_channels_wgrad, pool2x2_wgrad}, wgrad_tiles(), {sparse_pool2x2_wgrad}});
    return list;
}

std::string refuse(const Conv2dProblem& problem) {
    const Conv2d& c = problem.conv;
    const Pool2d& pool = problem.pool;
    // Earlier checks bound the factors of later products, so no product overflows.
    const std::string places =
        refuse({{"the height with padding", c.H + 2 * c.pad_h + (c.P - 1) * c.stride_h + c.R * c.dilation_h},
                {"the width with padding", c.W + 2 * c.pad_w + (c.Q - 1) * c.stride_w + c.S * c.dilation_w},
                {"the height that pooling windows cover",
                 pool.pad_h + pool.P * pool.stride_h + pool.window_h * pool.dilation_h},
                {"the width that pooling windows cover",
                 pool.pad_w + pool.Q * pool.stride_w + pool.window_w * pool.dilation_w},
                {"N", c.N},
                {"C", c.C},
                {"K", c.K}},
               most_reached);
    if (!places.empty()) return places;
    const std::string images =
        refuse({{"H * W", c.H * c.W}, {"P * Q", c.P * (c.Q + 7)}, {"R * S", c.R * c.S}}, most_counted);
    if (!images.empty()) return images;
    return refuse({{"N * H * W", c.N * c.H * c.W},
                   {"N * P * Q", c.N * c.P * (c.Q + 7)},
                   {"R * S * C", c.R * c.S * (c.C + 1)},
                   {"R * S * K", c.R * c.S * (c.K + 1)}},
                  most_counted);
}

}  // namespace fastconv::cuda
