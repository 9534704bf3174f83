// The list of tiles. Each tile is one implementation of each direction. A new tile is one line here; tests, gates and
// sweeps then run it.
#pragma once

#include <string>
#include <type_traits>

#include "conv2d_launch.h"
#include "conv2d_mma.cuh"
#include "cycles.h"

namespace fastconv::cuda {

// A tile on tensor cores, for 16-bit elements or TF32. TF32 has its own warp width, since its accumulators and operands
// can exceed 255 registers where 16-bit ones fit.
template <int rows, int columns, int warp_rows, int warp_columns, int warp_columns_of_tf32 = warp_columns>
struct TensorCoreTile {
    static constexpr bool tensor_cores = true;
    static constexpr const char *kind = "mma", *condition = "16-bit elements, or float32 where TF32 is allowed";
    static constexpr int sizes[2] = {rows, columns};
    // The tile for elements T; void if there is none.
    template <class T>
    using Of = std::conditional_t<sizeof(T) <= 4,
                                  MmaTile<T, rows, columns, 64 / int(sizeof(T)), 4, warp_rows,
                                          sizeof(T) == 4 ? warp_columns_of_tf32 : warp_columns>,
                                  void>;
};

// A tile with exact products in Acc. 16-bit elements need only one, for few filters: tensor cores multiply them exactly
// too.
template <class Acc, int rows, int columns, int rows_each, int columns_each, bool of_16_bits = false>
struct ExactTile {
    static constexpr bool tensor_cores = false;
    static constexpr const char *kind = "exact", *condition = sizeof(Acc) == 8 ? "float64"
                                                              : of_16_bits     ? "float32 and 16-bit elements"
                                                                               : "float32";
    static constexpr int sizes[2] = {rows, columns};
    template <class T>
    using Of = std::conditional_t<std::is_same_v<Accumulator<T>, Acc> && (sizeof(T) >= 4 || of_16_bits),
                                  Tile<Acc, rows, columns, 8, rows_each, columns_each>, void>;
};

template <class...>
struct TileList {};
using Tiles = TileList<                    // the earlier of equal cost is chosen
    TensorCoreTile<128, 128, 64, 64, 32>,  // 64 x 64 accumulators and TF32 operands would exceed 255 registers
    TensorCoreTile<128, 64, 64, 32>,       //
    TensorCoreTile<64, 64, 32, 32>,        // for products too small to fill a GPU otherwise
    TensorCoreTile<128, 32, 32, 32>,       //
    ExactTile<float, 128, 64, 8, 4>,       //
    ExactTile<float, 128, 32, 8, 4>,       //
    ExactTile<float, 128, 8, 4, 2, true>,  // for depthwise convolutions
    ExactTile<double, 64, 64, 4, 4>,       //
    ExactTile<double, 64, 32, 4, 4>,       //
    ExactTile<double, 64, 8, 2, 2>>;

// TileImplementation makes an implementation from a tile and a struct that describes the kernel. The struct has:
//     Args, condition               of its direction; the condition of `takes` in words
//     takes(problem)
//     work<Tile>(problem)           for the model of cycles
//     workspace<Tile>(problem)
//     run<T, Tile>(problem, args, launch)
template <class Kernel, class Family>
struct TileImplementation {
    using Args = typename Kernel::Args;
    template <class T>
    static constexpr bool has = !std::is_void_v<typename Family::template Of<T>>;

    // Calls use(a value of T, a value of the tile's type) and returns its result; Result() for elements without the
    // tile.
    template <class Result, class Use>
    static Result with(const Conv2dProblem& problem, const Use& use) {
        return with_type(problem.dtype, [&](auto type) {
            using T = decltype(type);
            if constexpr (has<T>) return use(type, typename Family::template Of<T>());
            else return Result();
        });
    }

    static bool takes(const Conv2dProblem& problem) {
        return Kernel::takes(problem) && with<bool>(problem, [&](auto type, auto) {
                   return !Family::tensor_cores || sizeof(type) == 2 || problem.tf32;
               });
    }
    static size_t workspace(const Conv2dProblem& problem) {
        return with<size_t>(problem,
                            [&](auto, auto tile) { return Kernel::template workspace<decltype(tile)>(problem); });
    }
    static double cost(const Conv2dProblem& problem) {
        return with<double>(problem, [&](auto, auto tile) {
            return cycles_of<decltype(tile)>(Kernel::template work<decltype(tile)>(problem));
        });
    }
    static void run(const Conv2dProblem& problem, const Args& args, const Launch& launch) {
        with<void>(problem, [&](auto type, auto tile) {
            Kernel::template run<decltype(type), decltype(tile)>(problem, args, launch);
        });
    }
    static Implementation<Args> make() {
        static const std::string name =
            Family::kind + std::to_string(Family::sizes[0]) + 'x' + std::to_string(Family::sizes[1]);
        static const std::string condition = std::string(Family::condition) + Kernel::condition;
        return {name.c_str(), condition.c_str(), takes, workspace, cost, run};
    }
};

template <class Kernel, class... Families>
Implementations<typename Kernel::Args> tiles_of(TileList<Families...>) {
    return {TileImplementation<Kernel, Families>::make()...};
}

// One implementation for each tile.
template <class Kernel>
Implementations<typename Kernel::Args> tiles_of() {
    return tiles_of<Kernel>(Tiles());
}

}  // namespace fastconv::cuda
