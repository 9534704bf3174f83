// Which tile takes a problem: the one that it names, else the one that should take the fewest cycles. These are a
// model's of one GPU, an H100, and depend on the geometry alone; a table from measurement (fastconv/variants.py) names
// tiles.
#pragma once

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "conv2d_mma.cuh"
#include "kernels.h"

namespace fastconv::cuda {

// As problems name a tile.
template <class Tile>
std::string name_of() {
    return (Tile::tensor_cores ? "mma" : "exact") + std::to_string(Tile::rows) + "x" + std::to_string(Tile::columns);
}

// What a direction would have to do with a tile. Elements that are read one by one cost instructions.
struct Work {
    int64_t blocks;
    double steps;      // of a block
    bool vectors;      // whether operands are read 16 bytes at a time
    double bytes = 0;  // to and from device memory after the last block
};

constexpr int multiprocessors = 132;

// The kernels of first layers, as problems name them.
constexpr std::string_view few_channels_variant = "first";

// Cycles until the last block has ended. A step's are the most of: products, at what such loops reach of the peak;
// bytes from the L2 cache; instructions of loads. `ends` are a block's beginning and end, which only other blocks can
// hide. All numbers are those of an H100 as published, or estimates: none is measured yet.
template <class Tile>
double cycles_of(const Work& work) {
    constexpr double bytes_per_cycle = 40, device_bytes_per_cycle = 1750, ends = 2500;
    constexpr int element = Tile::tensor_cores ? 16 / Tile::vector : int(sizeof(typename Tile::Acc));
    constexpr double products_per_cycle = !Tile::tensor_cores ? 384.0 / element : element == 2 ? 2560 : 1280;
    constexpr double instructions = Tile::tensor_cores ? 20 : 15;  // to read what is read at once
    constexpr int operands = Tile::rows + Tile::columns;

    double step = double(Tile::rows) * Tile::columns / products_per_cycle;
    step = std::fmax(step, operands * element / bytes_per_cycle);
    step = std::fmax(step, operands * instructions / 128 / (work.vectors ? Tile::vector : 1));
    const auto wave = [&](int64_t blocks) { return double(blocks) * work.steps * step + ends; };
    const int64_t at_once = int64_t(multiprocessors) * Tile::fewer_blocks, rest = work.blocks % at_once;
    return double(work.blocks / at_once) * wave(Tile::fewer_blocks) +
           (rest ? wave((rest + multiprocessors - 1) / multiprocessors) : 0) + work.bytes / device_bytes_per_cycle;
}

// Calls visit(a value of the tile's type) for the tiles that may take a problem of elements T.
template <class T, class Visit>
void each_tile(const Conv2dProblem& problem, const Visit& visit) {
    using Exact = Tiles<Accumulator<T>>;
    if constexpr (sizeof(T) <= 4) {
        if (sizeof(T) == 2 || problem.tf32) {
            visit(typename MmaTiles<T>::wide());
            visit(typename MmaTiles<T>::middle());
            visit(typename MmaTiles<T>::small());
            visit(typename MmaTiles<T>::narrow());
        }
    }
    if constexpr (sizeof(T) != 2) {  // tensor cores are as exact
        visit(typename Exact::wide());
        visit(typename Exact::middle());
    }
    visit(typename Exact::narrow());
}

// The names of the tiles that may take a problem, the fastest by their work_of(tile) first.
template <class WorkOf>
std::vector<std::string> tile_names(const Conv2dProblem& problem, const WorkOf& work_of) {
    std::vector<std::pair<double, std::string>> found;
    with_type(problem.dtype, [&](auto type) {
        each_tile<decltype(type)>(problem, [&](auto tile) {
            found.emplace_back(cycles_of<decltype(tile)>(work_of(tile)), name_of<decltype(tile)>());
        });
        return std::string();
    });
    std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<std::string> names;
    for (const auto& tile : found) names.push_back(tile.second);
    return names;
}

// Calls run(tile) for the tile that the problem names, or else for the first of tile_names(). What run returns, or an
// error where there is no such tile.
template <class T, class WorkOf, class Run>
std::string with_tile(const Conv2dProblem& problem, const WorkOf& work_of, const Run& run) {
    int chosen = -1, i = 0;
    double fewest = 0;
    each_tile<T>(problem, [&](auto tile) {
        using Tile = decltype(tile);
        if (*problem.variant) {
            if (name_of<Tile>() == problem.variant) chosen = i;
        } else {
            const double cycles = cycles_of<Tile>(work_of(tile));
            if (chosen < 0 || cycles < fewest) chosen = i, fewest = cycles;
        }
        ++i;
    });
    std::string result;
    if (chosen < 0) {
        result = "variant must be one of";
        for (const std::string& name : tile_names(problem, work_of)) result += ' ' + name;
        return result + ", got " + problem.variant;
    }
    i = 0;
    each_tile<T>(problem, [&](auto tile) {
        if (i++ == chosen) result = run(tile);
    });
    return result;
}

}  // namespace fastconv::cuda
