// A model of the cycles that a tile takes for a problem. The tile of the least cost is chosen. The model is of an H100
// and looks at the geometry and at whether channels are inside. A measured table (load_implementations) overrides it.
#pragma once

#include <cmath>
#include <cstdint>

namespace fastconv::cuda {

// Work is the amount of work of a direction with a tile. Elements that are read one by one cost instructions.
struct Work {
    int64_t blocks;
    double steps;      // of a block
    bool vectors;      // whether operands are read 16 bytes at a time
    double bytes = 0;  // to and from device memory after the last block
};

constexpr int multiprocessors = 132;

// Cycles until the last block has ended. A step takes the longest of three: products at a fraction of the peak, bytes
// from the L2 cache, and load instructions. `ends` are the cycles at a block's beginning and end, which only other
// blocks can hide. All numbers are an H100's data sheet or estimated; none is measured.
template <class Tile>
double cycles_of(const Work& work) {
    constexpr double bytes_per_cycle = 40, device_bytes_per_cycle = 1750, ends = 2500;
    constexpr int element = Tile::tensor_cores ? 16 / Tile::vector : int(sizeof(typename Tile::Acc));
    constexpr double products_per_cycle = !Tile::tensor_cores ? 384.0 / element : element == 2 ? 2560 : 1280;
    constexpr double instructions = Tile::tensor_cores ? 20 : 15;  // per vector or single element that is read
    constexpr int operands = Tile::rows + Tile::columns;

    double step = double(Tile::rows) * Tile::columns / products_per_cycle;
    step = std::fmax(step, operands * element / bytes_per_cycle);
    step = std::fmax(step, operands * instructions / 128 / (work.vectors ? Tile::vector : 1));
    const auto wave = [&](int64_t blocks) { return double(blocks) * work.steps * step + ends; };
    const int64_t at_once = int64_t(multiprocessors) * Tile::fewer_blocks, rest = work.blocks % at_once;
    return double(work.blocks / at_once) * wave(Tile::fewer_blocks) +
           (rest ? wave((rest + multiprocessors - 1) / multiprocessors) : 0) + work.bytes / device_bytes_per_cycle;
}

}  // namespace fastconv::cuda
