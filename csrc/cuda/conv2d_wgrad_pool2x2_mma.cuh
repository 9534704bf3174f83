// Tensor-core products with a left operand that is zero except at the winners of 2x2 pooling windows.
//
//     left(filter, step) = gradient[window][filter] if the step's position is code[window][filter], else 0
//
// Rows are filters, steps the four positions of each window. The left operand is built in registers, from gradients and
// codes as they lie in memory.
//
//   a warp    multiplies warp_rows x warp_columns by 128 bytes of steps per iteration, as conv2d_mma.cuh does
//   a thread  needs whole windows of the left operand for its products, since steps may be numbered freely (step_of()).
//             It reads a gradient and its code once and puts the gradient into the winner's register. Rows may be
//             numbered freely, too: a thread's rows are neighboring filters (filter()), read 16 bytes at a time
//
// At most one of four neighboring steps in a row is not zero. Sparse tensor cores (Tile::sparse) skip the others. Their
// metadata says which of the four, or of the two with TF32, is the winner.
#pragma once

#include "conv2d_mma.cuh"

namespace fastconv::cuda {

template <class T_, int rows_, int columns_, int warp_rows_, int warp_columns_, bool sparse_>
struct Pool2x2Tile {
    using T = T_;
    using Mma = MmaTile<T, rows_, columns_, 128 / int(sizeof(T)), 3, warp_rows_, warp_columns_>;
    static constexpr bool sparse = sparse_;
    static constexpr int rows = rows_, columns = columns_, threads = Mma::threads, vector = Mma::vector;
    static constexpr int windows = Mma::steps / 4;           // per iteration
    static constexpr int together = sizeof(T) == 2 ? 8 : 4;  // windows multiplied at once: 64 bytes of steps
    static constexpr int filters = Mma::warp_rows / 8;       // per thread
    static constexpr int run = filters < Mma::vector ? filters : Mma::vector;  // neighbors among these
    static constexpr int gradient_bytes = windows * rows * int(sizeof(T)), code_bytes = windows * rows / 2;
    static constexpr int stage = gradient_bytes + code_bytes + Mma::steps * columns * int(sizeof(T));
    static constexpr int sum_bytes = rows * Mma::sum_stride * 4;
    static constexpr int buffer = Mma::stages * stage > sum_bytes ? Mma::stages * stage : sum_bytes;

    // A position's number among the steps. In this order, one thread holds a window's positions as far as one product
    // has them.
    FASTCONV_DEVICE static int step_of(int window, int position) {
        if constexpr (sparse && sizeof(T) == 2) return window * 4 + position;
        const int first = window / 4 * 16;
        if constexpr (sizeof(T) == 4 && !sparse) return first + position * 4 + window % 4;
        return first + position / 2 * 8 + window % 4 * 2 + position % 2;
    }
    // Filter number i of a lane, within its warp's rows.
    FASTCONV_DEVICE static int filter(int lane, int i) { return (i / run * 8 + lane / 4) * run + i % run; }
    // The place of a gradient, in elements, and of a code, in bytes. A warp reads four windows at once. Chunks of eight
    // filters are exchanged so that these windows lie in different banks.
    FASTCONV_DEVICE static int gradient_place(int window, int filter) {
        constexpr int chunks = rows / vector, exchanged = chunks < 8 ? chunks : 8;
        const int with = window / (8 / exchanged) % (exchanged / 2) * 2;
        return window * rows + (filter / vector ^ with) * vector + filter % vector;
    }
    FASTCONV_DEVICE static int code_place(int window, int filter) {
        const int with = rows == 128 ? window / 2 % 2 * 8 : 0;
        return (window * (rows / 8) + (filter / 8 ^ with)) * 4 + filter % 8 / 2;
    }
};

template <class T, bool sparse>
struct Pool2x2Tiles {
    using wide = Pool2x2Tile<T, 128, 128, 64, sizeof(T) == 4 ? 32 : 64, sparse>;
    using middle = Pool2x2Tile<T, 64, 128, 32, 64, sparse>;
    using narrow = Pool2x2Tile<T, 32, 128, 32, 32, sparse>;
};

// A block's stages in shared memory, afterwards its sums.
template <class Tile>
class Pool2x2Stages {
    using T = typename Tile::T;

public:
    FASTCONV_HOST_DEVICE explicit Pool2x2Stages(simt::Shared& shared) : buffer_(shared.take<char>(Tile::buffer)) {}
    FASTCONV_DEVICE T* gradients(int i) const { return reinterpret_cast<T*>(stage(i)); }
    FASTCONV_DEVICE uint8_t* codes(int i) const { return reinterpret_cast<uint8_t*>(stage(i) + Tile::gradient_bytes); }
    FASTCONV_DEVICE T* x(int i) const {
        return reinterpret_cast<T*>(stage(i) + Tile::gradient_bytes + Tile::code_bytes);
    }
    FASTCONV_DEVICE float* sums() const { return reinterpret_cast<float*>(buffer_); }

private:
    FASTCONV_DEVICE char* stage(int i) const { return buffer_ + i * Tile::stage; }

    char* buffer_;
};

// SparseMma is the sparse product of 16 rows x 8 columns x 64 bytes of steps.
template <class T>
struct SparseMma;
template <>
struct SparseMma<float> {
    template <int selector>
    FASTCONV_DEVICE static void add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
        simt::mma_sp_tf32<selector>(d, a, b, metadata);
    }
};
template <>
struct SparseMma<simt::half> {
    template <int selector>
    FASTCONV_DEVICE static void add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
        simt::mma_sp_fp16<selector>(d, a, b, metadata);
    }
};
template <>
struct SparseMma<simt::bfloat16> {
    template <int selector>
    FASTCONV_DEVICE static void add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
        simt::mma_sp_bf16<selector>(d, a, b, metadata);
    }
};

// Reads the codes of 4 or 8 neighboring filters, 4 bits each.
template <int filters>
FASTCONV_DEVICE uint32_t read_codes(const uint8_t* from) {
    if constexpr (filters == 8) return simt::load<1>(reinterpret_cast<const uint32_t*>(from))[0];
    else return simt::load<1>(reinterpret_cast<const uint16_t*>(from))[0];
}

// Metadata distributes the metadata of sparse products between lanes. A lane knows the nibbles of its filters in one
// window or two: byte m of a word holds those of both its rows in product m. A product expects one word from lanes 2 *
// selector, for the first four windows, and one from the next lane, for the others. Such a word holds the nibbles of
// one row in four windows, then of the other row.
class Metadata {
public:
    FASTCONV_DEVICE Metadata() : order_(0x6240) {  // byte order for permute: bytes of lanes t, t ^ 1, t ^ 2, t ^ 3
        if (simt::lane() & 1) order_ = (order_ & 0x0f0f) << 4 | (order_ >> 4 & 0x0f0f);
        if (simt::lane() & 2) order_ = (order_ & 0x00ff) << 8 | order_ >> 8;
    }
    // words[i] serves product 2 * i with selector 0 and product 2 * i + 1 with selector 1.
    template <int count>
    FASTCONV_DEVICE void deal_out(uint32_t (&words)[count], uint32_t first, uint32_t second) const {
        const bool upper = simt::lane() & 2, odd = simt::lane() & 1;
        const uint32_t even_products = simt::permute(first, second, 0x6420);
        const uint32_t odd_products = simt::permute(first, second, 0x7531);
        const uint32_t kept = upper ? odd_products : even_products;
        const uint32_t got = simt::shuffle_xor(upper ? even_products : odd_products, 2);
        const uint32_t firsts = simt::permute(kept, got, 0x5410), seconds = simt::permute(kept, got, 0x7632);
        const uint32_t mine = odd ? seconds : firsts, neighbors = simt::shuffle_xor(odd ? firsts : seconds, 1);
        FASTCONV_UNROLL
        for (int i = 0; i < count; ++i) {
            const uint32_t bytes = simt::permute(mine, neighbors, order_ + 0x1111u * unsigned(i));
            const uint32_t low = bytes & 0x0f0f0f0f, high = bytes >> 4 & 0x0f0f0f0f;
            words[i] = simt::permute(low | low >> 4, high | high >> 4, 0x6420);
        }
    }

private:
    uint32_t order_;
};

// The left operand of the products of Tile::together windows.
template <class Tile>
class Pool2x2Operand {
    using T = typename Tile::T;
    static constexpr bool sparse = Tile::sparse, small = sizeof(T) == 2;
    static constexpr int high = Tile::Mma::warp_rows / 16, halves = Tile::together / 4;

public:
    uint32_t a[sparse ? 1 : 2][high][4];  // a sparse product takes all of the steps, a dense one half of them
    uint32_t metadata[high / 2];

    // Builds the operand from a stage, for Tile::together windows from first_window on.
    FASTCONV_DEVICE void read(const T* gradients, const uint8_t* codes, int first_window, const Metadata& dealer) {
        uint32_t nibbles[halves];
        FASTCONV_UNROLL
        for (int half = 0; half < halves; ++half) {
            const int window = first_window + half * 4 + simt::lane() % 4;
            uint32_t winners = 0;
            FASTCONV_UNROLL
            for (int i = 0; i < Tile::filters; i += Tile::run) {
                const int filter = Sums<typename Tile::Mma>::first_row() + Tile::filter(simt::lane(), i);
                const uint32_t codes_of_run = read_codes<Tile::run>(codes + Tile::code_place(window, filter));
                put_run(half, i, gradients + Tile::gradient_place(window, filter), codes_of_run);
                winners |= codes_of_run << 4 * i;
            }
            // A nibble says which two of four neighbors a register holds, 0 and 1 or 2 and 3. For TF32: which of two, 0
            // or 1.
            nibbles[half] = 0x44444444 + ((small ? winners >> 1 : winners) & 0x11111111) * 10;
        }
        if constexpr (sparse) dealer.deal_out(metadata, nibbles[0], nibbles[halves - 1]);
    }

private:
    // Puts the gradients of the lane's filters, from number `first` on, where their winners are. Dead ones go nowhere.
    FASTCONV_DEVICE void put_run(int half, int first, const T* gradients, uint32_t winners) {
        if constexpr (small) {
            const auto pairs = simt::load<Tile::run / 2>(reinterpret_cast<const uint32_t*>(gradients));
            FASTCONV_UNROLL
            for (int v = 0; v < Tile::run; ++v) {
                const uint32_t gradient = v % 2 ? pairs[v / 2] >> 16 : pairs[v / 2] & 0xffff;
                const uint32_t bits = v == 0 ? winners << 4 : winners >> (4 * v - 4);  // 16 bits per position
                put_small(half, (first + v) / 2, v % 2, gradient, bits & 0xf0);
            }
        } else {
            const auto values = simt::load<Tile::run>(gradients);
            FASTCONV_UNROLL
            for (int v = 0; v < Tile::run; ++v)
                put_large((first + v) / 2, v % 2, simt::to_tf32(values[v]), winners >> 4 * v & 15);
        }
    }
    FASTCONV_DEVICE void put_small(int half, int m, int row, uint32_t gradient, uint32_t bits) {
        if constexpr (sparse) {
            a[0][m][row + 2 * half] = simt::shift_left(gradient, bits & 0xd0);
        } else {
            const uint64_t window = simt::shift_left(uint64_t(gradient), bits);
            a[half][m][row] = uint32_t(window);
            a[half][m][row + 2] = uint32_t(window >> 32);
        }
    }
    FASTCONV_DEVICE void put_large(int m, int row, uint32_t gradient, uint32_t winner) {
        FASTCONV_UNROLL
        for (int position = 0; position < 4; position += sparse ? 2 : 1) {
            uint32_t& to = sparse ? a[0][m][row + position] : a[position / 2][m][row + position % 2 * 2];
            to = (sparse ? winner & ~1u : winner) == unsigned(position) ? gradient : 0;
        }
    }
};

// Reads the right operand of these products: four chunks of steps of eight columns.
template <class Tile>
FASTCONV_DEVICE void read_columns(uint32_t (&to)[4], const typename Tile::T* x, int column, int step) {
    const auto place = [](int step, int column) {
        return Tile::Mma::template place<true, Tile::columns>(step, column);
    };
    if constexpr (sizeof(typename Tile::T) == 2) {
        simt::ldmatrix_x4_trans(to, x + place(step + simt::lane(), column));
    } else {  // ldmatrix transposes 16-bit elements only
        FASTCONV_UNROLL
        for (int i = 0; i < 4; ++i)
            to[i] = simt::float_bits(x[place(step + i * 4 + simt::lane() % 4, column + simt::lane() / 4)]);
    }
    Mma<typename Tile::T>::round(to);
}

// One main-loop iteration.
template <class Tile>
FASTCONV_DEVICE void add_windows(Sums<typename Tile::Mma>& sums, const Pool2x2Stages<Tile>& stages, int stage,
                                 const Metadata& dealer) {
    using T = typename Tile::T;
    using MmaSums = Sums<typename Tile::Mma>;
    FASTCONV_UNROLL
    for (int first = 0; first < Tile::windows; first += Tile::together) {
        Pool2x2Operand<Tile> left;
        left.read(stages.gradients(stage), stages.codes(stage), first, dealer);
        FASTCONV_UNROLL
        for (int n = 0; n < MmaSums::wide; ++n) {
            uint32_t right[4];
            read_columns<Tile>(right, stages.x(stage), MmaSums::first_column() + n * 8, 4 * first);
            FASTCONV_UNROLL
            for (int m = 0; m < MmaSums::high; ++m) {
                float (&sum)[4] = sums.value[m][n];
                if constexpr (!Tile::sparse) {
                    const uint32_t first_half[2] = {right[0], right[1]}, second_half[2] = {right[2], right[3]};
                    Mma<T>::add(sum, left.a[0][m], first_half);
                    Mma<T>::add(sum, left.a[1][m], second_half);
                } else if (m % 2) {
                    SparseMma<T>::template add<1>(sum, left.a[0][m], right, left.metadata[m / 2]);
                } else {
                    SparseMma<T>::template add<0>(sum, left.a[0][m], right, left.metadata[m / 2]);
                }
            }
        }
    }
}

}  // namespace fastconv::cuda
