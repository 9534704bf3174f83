// What is a first layer, and how it is cut into rectangles, if it fits.
#pragma once

#include <optional>

#include "conv2d_first.cuh"
#include "conv2d_launch.h"

namespace fastconv::cuda {

// What every GPU from sm_80 on gives a block.
constexpr int first_most_bytes = 99 * 1024;

// Nothing where the halo of any rectangle is longer than the sums that later lie there, or the filters are too long.
template <class T, class Tile>
std::optional<FirstLayout> first_layout(const Conv2dProblem& problem, int (*bytes_of)(const FirstLayout&)) {
    const Conv2d& c = problem.conv;
    const int64_t taps_of_s = (c.C * c.R + 3) / 4 * 4,
                  steps = (c.S * taps_of_s + 2 * Tile::vector - 1) / (2 * Tile::vector);
    if (steps * Tile::columns * 32 > first_most_bytes) return {};
    FirstLayout layout;
    layout.steps = int(steps);
    layout.taps_of_s = Divider(int(taps_of_s)), layout.taps_of_c = Divider(int(c.R));
    if (bytes_of(layout) > first_most_bytes) return {};

    const Geometry conv(c);
    layout.pool = PoolGeometry(problem.pool);
    const PoolGeometry& pool = layout.pool;
    // How many windows, of `most`, cover no more than `room` pixels.
    const auto windows = [](int room, int most, int stride, int window, int dilation) {
        const int64_t rest = room - PoolTiling::below(1, stride, window, dilation);
        return rest < 0 ? 0 : least(most, int(rest / stride) + 1);
    };
    int64_t fastest = 0;
    for (int width = 8; width <= Tile::rows; width += 8) {
        PoolTiling tiling;
        tiling.width = width;
        tiling.pooled_w = windows(width, pool.Q, pool.stride_w, pool.window_w, pool.dilation_w);
        tiling.pooled_h = windows(Tile::rows / width, pool.P, pool.stride_h, pool.window_h, pool.dilation_h);
        if (tiling.pooled_w == 0 || tiling.pooled_h == 0) continue;
        tiling.height = int(PoolTiling::below(tiling.pooled_h, pool.stride_h, pool.window_h, pool.dilation_h));
        tiling.tiles_h = ceil_div(pool.P, tiling.pooled_h), tiling.tiles_w = ceil_div(pool.Q, tiling.pooled_w);

        constexpr int most = Tile::buffer * 4 / int(sizeof(T));
        const int64_t below_h = (tiling.height - 1) * c.stride_h + (c.R - 1) * c.dilation_h + 1;
        const int64_t below_w = (width - 1) * c.stride_w + (c.S - 1) * c.dilation_w + 1;
        if (below_h > most || below_w > most || below_h * below_w > most) continue;
        const Halo halo(conv, tiling.height, width, sizeof(T));
        if (halo.size(conv.channels) > most) continue;

        // The products of a tile's pixel take about as long as bringing three pixels of x.
        const int64_t rectangles = int64_t(conv.N) * tiling.tiles_h * tiling.tiles_w;
        const int64_t time = rectangles * (3 * Tile::rows + below_h * below_w);
        if (rectangles > most_reached || (fastest && time >= fastest)) continue;
        fastest = time;
        layout.tiling = tiling, layout.halo = halo;
        layout.rectangles = int(rectangles);
    }
    if (fastest == 0) return {};
    layout.tiles_h = Divider(layout.tiling.tiles_h), layout.tiles_w = Divider(layout.tiling.tiles_w);
    layout.width = Divider(layout.tiling.width);
    // Multiprocessors stay busy; beyond that, filters are brought less often.
    const int64_t blocks = int64_t(layout.rectangles) * ceil_div(conv.filters, Tile::columns);
    layout.turns = least(int(blocks / (4 * multiprocessors * Tile::blocks)), 7) + 1;
    return layout;
}

// Calls run(a value of the tile's type) for a first layer, with the one that its filters fill: few channels, and not so
// few filters that most of a tile would be empty.
template <class Run>
std::string with_first_tile(const Conv2dProblem& problem, const Run& run) {
    const Conv2d& conv = problem.conv;
    if (conv.groups != 1 || conv.C < 1 || conv.C >= 8 || conv.K <= 8) return "";
    return with_type(problem.dtype, [&](auto type) {
        using T = decltype(type);
        if constexpr (sizeof(T) <= 4) {
            if (sizeof(T) == 4 && !problem.tf32) return std::string();
            if (conv.K > 32) return run(typename FirstTiles<T>::wide());
            return run(typename FirstTiles<T>::narrow());
        }
        return std::string();
    });
}

}  // namespace fastconv::cuda
