// wgrad of dense gradients of bfloat16 on matrix tiles (tiles.h).
//
// It packs as the dense kernel does (conv2d_dense_wgrad.h). The rows of an x tile are 16 channels of one kernel
// position, and its columns are neighboring pixels. The rows of a tile of dy are pairs of pixels.
#include "conv2d_dense_wgrad.h"
#include "tiles.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t least_length = 8;  // pixels of a part: shorter ones leave tiles nearly empty

// The longest even part, in pixels, that `pixels` are whole numbers of; 0 if there is none.
inline int64_t part_length(int64_t pixels) {
    for (int64_t length = tile_elements; length > 0; length -= 2)
        if (pixels % length == 0) return length;
    return 0;
}

struct TileProduct {
    using E = bfloat16;
    static constexpr int64_t channel_step = tile_rows;

    static int64_t pieces(int64_t pixels) { return pixels / max(1, part_length(pixels)); }

    // Adds products to a block's sums for some channels, or writes the first ones.
    static void multiply(const Conv2d& conv, const Plan<E>& plan, const Pixel* taps, Range channels, int vectors,
                         const Part* part, const Part* last_part, const E* x, const E* dy, bool first_sum,
                         float* sums) {
        const int64_t positions = conv.R * conv.S, width = vectors * tile_columns;
        Tiles tiles(tile_rows, part->length);
        for (int64_t position = 0; position < positions; ++position)
            for (int64_t c = channels.first; c < channels.last; c += 2 * tile_rows) {
                const bool two = c + tile_rows < channels.last;
                const auto add = vectors == 2 ? (two ? multiply_tiles<2, 2> : multiply_tiles<1, 2>)
                                              : (two ? multiply_tiles<2, 1> : multiply_tiles<1, 1>);
                // The products of a chunk are added as a whole: long sums then lose fewer digits.
                float products[2 * tile_rows * 2 * tile_columns];
                add(tiles, part, last_part, x + taps[c * positions + position].offset, plan.pitch, dy, products);
                for (int64_t i = 0; i < (two ? 2 : 1) * tile_rows; ++i) {
                    float* at = sums + ((c - channels.first + i) * positions + position) * width;
                    for (int64_t v = 0; v < width; v += lanes<float>) {
                        const Vec<float> product = load(products + i * width + v);
                        store(at + v, first_sum ? product : load(at + v) + product);
                    }
                }
            }
    }

private:
    // Computes M x N tiles: x of M x 16 channels, `pitch` elements apart, and dy of N x 16 filters.
    template <int M, int N>
    static void multiply_tiles(Tiles& tiles, const Part* part, const Part* last_part, const E* x, int64_t pitch,
                               const E* dy, float* products) {
        constexpr int64_t row_bytes = N * tile_columns * int64_t(sizeof(float));
        each_sum<M, N>([&](auto tile, int, int) { tiles.zero<tile.number>(); });
        const int64_t length = part->length;
        for (; part < last_part; ++part, dy += length * N * tile_columns) {
            tiles.load<x_tile(0)>(x + part->offset, 2 * pitch);
            if constexpr (M > 1) tiles.load<x_tile(1)>(x + part->offset + tile_rows * pitch, 2 * pitch);
            tiles.load<w_tile(0)>(dy, row_bytes);
            if constexpr (N > 1) tiles.load<w_tile(1)>(dy + 2 * tile_columns, row_bytes);
            add_products<M, N>(tiles);
        }
        each_sum<M, N>([&](auto tile, int i, int j) {
            tiles.store<tile.number>(products + i * tile_rows * N * tile_columns + j * tile_columns, row_bytes);
        });
    }
};

constexpr const char* tiles_condition =
    "bfloat16 gradients without a code, 16, 32, ... channels of a group, and rows of dy that tiles divide";

bool takes_tiles(const Conv2dProblem& problem) {
    const Conv2d& conv = problem.conv;
    return problem.dtype == DType::bfloat16 && takes<bfloat16>(problem) && conv.C / conv.groups % tile_rows == 0 &&
           part_length(conv.Q) >= least_length && tiles_permitted();
}

}  // namespace

extern const Implementation<WgradArgs> tiles_bf16_wgrad;
const Implementation<WgradArgs> tiles_bf16_wgrad = {
    "tiles_bf16", tiles_condition, takes_tiles, workspace<bfloat16, TileProduct>, nullptr, run<bfloat16, TileProduct>};

}  // namespace fastconv::cpu::FASTCONV_ISA
