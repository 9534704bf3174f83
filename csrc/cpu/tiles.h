// The matrix tiles of AMX, and a portable twin that computes the same bits.
//
// A tile has up to 16 rows of 64 bytes. Four tiles hold sums, each of 16 pixels x 16 filters in float32. Two tiles hold
// x, a pixel in each row. Two tiles hold weights, and their rows are pairs of elements (terms.h). A product of tiles
// adds up to 32 elements to each of 256 sums.
//
// The instructions are written in assembly. GCC's intrinsics for them drop stores to memory that a tile is loaded from,
// and take no numbers from templates.
#pragma once

#include "terms.h"

#if FASTCONV_TILES == 1
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int request_permission = 0x1023, tile_data = 18;  // of arch_prctl
constexpr int64_t tile_rows = 16, tile_elements = 32;       // elements: of a row of x
constexpr int tile_columns = 16;                            // sums of a row

// The numbers of the tiles: sums of x tile i and weight tile j, x tile i, weight tile j.
constexpr int sum_tile(int i, int j) { return 2 * i + j; }
constexpr int x_tile(int i) { return 4 + i; }
constexpr int w_tile(int j) { return 6 + j; }

// The shapes of the tiles, as the processor reads them.
struct alignas(64) TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    // rows: pixels of a tile. elements: of a row of x, an even number.
    TileShapes(int64_t pixels, int64_t elements) {
        for (int i = 0; i < 8; ++i) {
            rows[i] = uint8_t(i < w_tile(0) ? pixels : elements / 2);
            row_bytes[i] = uint16_t(i < x_tile(0) || i >= w_tile(0) ? 64 : 2 * elements);
        }
    }
};

// The tiles of this thread, configured for as long as this object lives. Strides are in bytes.
#if FASTCONV_TILES == 1
class Tiles {
public:
    Tiles(int64_t pixels, int64_t elements) {
        const TileShapes shapes(pixels, elements);
        asm volatile("ldtilecfg %0" : : "m"(shapes) : "memory");
    }
    ~Tiles() { asm volatile("tilerelease" : : : "memory"); }
    Tiles(const Tiles&) = delete;
    Tiles& operator=(const Tiles&) = delete;

    template <int TILE>
    void load(const void* from, int64_t stride) {
        asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(from), "r"(stride), "i"(TILE) : "memory");
    }
    template <int TILE>
    void zero() {
        asm volatile("tilezero %%tmm%c0" : : "i"(TILE));
    }
    template <int TILE>
    void store(void* to, int64_t stride) {
        asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(to), "r"(stride), "i"(TILE) : "memory");
    }
    // Adds the products of an x tile and a weight tile to sums.
    template <int SUMS, int X, int W>
    void multiply_add() {
        asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(SUMS), "i"(X), "i"(W));
    }
};
#else
class Tiles {
public:
    Tiles(int64_t pixels, int64_t elements) : shapes_(pixels, elements) {}

    template <int TILE>
    void load(const void* from, int64_t stride) {
        for (int row = 0; row < shapes_.rows[TILE]; ++row)
            std::memcpy(data_[TILE][row], static_cast<const char*>(from) + row * stride, shapes_.row_bytes[TILE]);
    }
    template <int TILE>
    void zero() {
        std::memset(data_[TILE], 0, sizeof(data_[TILE]));
    }
    template <int TILE>
    void store(void* to, int64_t stride) {
        for (int row = 0; row < shapes_.rows[TILE]; ++row)
            std::memcpy(static_cast<char*>(to) + row * stride, data_[TILE][row], shapes_.row_bytes[TILE]);
    }
    // Even and odd elements are added up apart, each from zero, and then to the sum. Subnormal numbers are zeros.
    template <int SUMS, int X, int W>
    void multiply_add() {
        static_assert(lanes<float> == tile_columns, "a row of sums is a vector");
        const auto term = [](const char* p) { return reinterpret_cast<const bfloat16*>(p); };
        for (int row = 0; row < shapes_.rows[SUMS]; ++row) {
            Vec<float> even = {}, odd = {};
            for (int i = 0; i < shapes_.rows[W]; ++i) {
                const Terms<bfloat16> x = splat_term(term(data_[X][row] + 4 * i)), w = load_terms(term(data_[W][i]));
                even = flushed(even + flushed(even_elements(x)) * flushed(even_elements(w)));
                odd = flushed(odd + flushed(odd_elements(x)) * flushed(odd_elements(w)));
            }
            auto* sums = reinterpret_cast<float*>(data_[SUMS][row]);
            fastconv::cpu::FASTCONV_ISA::store(sums, flushed(fastconv::cpu::FASTCONV_ISA::load(sums) + (even + odd)));
        }
    }

private:
    TileShapes shapes_;
    alignas(64) char data_[8][16][64];

    static Vec<float> flushed(Vec<float> v) {
        const auto bits = same_bits<Vec<uint32_t> >(v);
        return select((bits & 0x7fffffffu) < 0x00800000u, same_bits<Vec<float> >(bits & 0x80000000u), v);
    }
};
#endif

// A tile's number as an argument.
template <int NUMBER>
struct TileNumber {
    static constexpr int number = NUMBER;
};

// Calls body(the number of the sums of x tile i and weight tile j, i, j) for M x N of them.
template <int M, int N, class Body>
inline void each_sum(const Body& body) {
    body(TileNumber<sum_tile(0, 0)>(), 0, 0);
    if constexpr (N > 1) body(TileNumber<sum_tile(0, 1)>(), 0, 1);
    if constexpr (M > 1) body(TileNumber<sum_tile(1, 0)>(), 1, 0);
    if constexpr (M > 1 && N > 1) body(TileNumber<sum_tile(1, 1)>(), 1, 1);
}

// Adds the products of M x tiles and N weight tiles to their sums.
template <int M, int N>
inline void add_products(Tiles& tiles) {
    tiles.multiply_add<sum_tile(0, 0), x_tile(0), w_tile(0)>();
    if constexpr (N > 1) tiles.multiply_add<sum_tile(0, 1), x_tile(0), w_tile(1)>();
    if constexpr (M > 1) tiles.multiply_add<sum_tile(1, 0), x_tile(1), w_tile(0)>();
    if constexpr (M > 1 && N > 1) tiles.multiply_add<sum_tile(1, 1), x_tile(1), w_tile(1)>();
}

// Whether this process may use tiles. Asking for it is left to the first problem that could: afterwards the kernel
// refuses small alternate stacks for signals.
#if FASTCONV_TILES == 1
inline bool tiles_permitted() {
    static const bool permitted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    return permitted;
}
#else
inline bool tiles_permitted() { return true; }
#endif

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
