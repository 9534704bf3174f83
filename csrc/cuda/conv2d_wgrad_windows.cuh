// conv2d_wgrad.cuh's sums where 2x2 max-pooling windows that do not overlap follow the convolution and its ReLU:
//
//     dw[k, c, r, s] = sum over n, pp, qq of dy[n, k, pp, qq] * x[n, c, p * stride - pad + r * dilation, ...]
//     dbias[k]       = sum over n, pp, qq of dy[n, k, pp, qq]
//
// over the windows (pp, qq) that are not dead, where (p, q) is the winner's place, which the code tells for each k. As
// a product whose steps are all windows' four positions, the left side being zero but at the winner's:
//
//     rows     filters k of one group
//     columns  taps (r, s, c) of it; and, if dbias is wanted, one more for which x is replaced by 1
//     steps    (n, pp, qq, position)
//
// The gradient of the convolution's output is in no memory, and each pooled gradient is read once.
//
//   a block   computes Tile::rows x Tile::columns sums of one split of the windows and writes them to the workspace,
//             [split][k][column] (conv2d_wgrad_sum.cuh). It copies pooled gradients and codes, [window][filter], as
//             they are, and x, [step][column], for a turn of the main loop while others are multiplied
//   a warp    multiplies warp_rows x warp_columns by 128 bytes of steps in a turn, as conv2d_mma.cuh does
//   a thread  needs of the left side, whichever product it is, whole windows: products may number steps as they like
//             (slot()). So it reads a gradient and its code once and puts the gradient into the register that its
//             winner has. Rows may be numbered at will, too: those of a thread are neighbouring filters (filter()),
//             which it reads 16 bytes at a time.
//
// Of four neighbouring steps of a row at most one is not zero: sparse tensor cores (Tile::sparse) leave the others out.
// Where the winner is among the four, or of TF32 the two, is what they call metadata.
#pragma once

#include "conv2d_mma.cuh"
#include "conv2d_views.cuh"

namespace fastconv::cuda {

template <class T_, int rows_, int columns_, int warp_rows_, int warp_columns_, bool sparse_>
struct WindowsTile {
    using T = T_;
    using Mma = MmaTile<T, rows_, columns_, 128 / int(sizeof(T)), 3, warp_rows_, warp_columns_>;
    static constexpr bool sparse = sparse_;
    static constexpr int rows = rows_, columns = columns_, threads = Mma::threads, vector = Mma::vector;
    static constexpr int windows = Mma::steps / 4;           // of a turn
    static constexpr int together = sizeof(T) == 2 ? 8 : 4;  // in 64 bytes of steps, which are multiplied at once
    static constexpr int filters = Mma::warp_rows / 8;       // of a thread
    static constexpr int run = filters < Mma::vector ? filters : Mma::vector;  // of these, neighbours
    static constexpr int gradient_bytes = windows * rows * int(sizeof(T)), code_bytes = windows * rows / 2;
    static constexpr int stage = gradient_bytes + code_bytes + Mma::steps * columns * int(sizeof(T));
    static constexpr int sum_bytes = rows * Mma::sum_stride * 4;
    static constexpr int buffer = Mma::stages * stage > sum_bytes ? Mma::stages * stage : sum_bytes;

    // A position's number among the steps. Products read them in this order, so that those of a window, as far as one
    // product has them, are one thread's.
    FASTCONV_DEVICE static int slot(int window, int position) {
        if constexpr (sparse && sizeof(T) == 2) return window * 4 + position;
        const int first = window / 4 * 16;
        if constexpr (sizeof(T) == 4 && !sparse) return first + position * 4 + window % 4;
        return first + position / 2 * 8 + window % 4 * 2 + position % 2;
    }
    // Filter number i of a lane, within its warp's rows.
    FASTCONV_DEVICE static int filter(int lane, int i) { return (i / run * 8 + lane / 4) * run + i % run; }
    // Where a gradient stands, in elements, and a code, in bytes. A warp reads those of four windows at once; chunks of
    // eight filters are exchanged, so that the windows lie in different banks.
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
struct WindowsTiles {
    using wide = WindowsTile<T, 128, 128, 64, sizeof(T) == 4 ? 32 : 64, sparse>;
    using middle = WindowsTile<T, 64, 128, 32, 64, sparse>;
    using narrow = WindowsTile<T, 32, 128, 32, 32, sparse>;
};

template <class T>
struct WgradWindowsParameters {
    ImageView<T> x;
    const T* dy;
    const uint8_t* code;
    float* partial;
    Geometry conv;
    Strides x_strides;
    Walk walk;          // of x over the windows
    Site right, below;  // from one position in a window to the next
    Taps taps;
    int weight_columns, columns;             // without and with the bias
    int windows, windows_per_split;          // of all images
    int row_tiles, column_tiles, code_step;  // code_step: bytes from window to window
};

// What a block computes; in shared memory, so that the main loop has the registers.
struct WgradWindowsBlock {
    int first_row, first_column, group, split;
};

template <class Tile>
struct WgradWindowsMemory {
    char* buffer;  // stages, afterwards the sums
    WgradWindowsBlock* block;
    FASTCONV_HOST_DEVICE explicit WgradWindowsMemory(simt::Shared& shared)
        : buffer(shared.take<char>(Tile::buffer)), block(shared.take<WgradWindowsBlock>(1)) {}
    FASTCONV_DEVICE typename Tile::T* gradients(int stage) const {
        return reinterpret_cast<typename Tile::T*>(buffer + stage * Tile::stage);
    }
    FASTCONV_DEVICE uint8_t* codes(int stage) const {
        return reinterpret_cast<uint8_t*>(buffer + stage * Tile::stage + Tile::gradient_bytes);
    }
    FASTCONV_DEVICE typename Tile::T* x(int stage) const {
        return reinterpret_cast<typename Tile::T*>(buffer + stage * Tile::stage + Tile::gradient_bytes +
                                                   Tile::code_bytes);
    }
};

// What a thread copies: of x, one chunk of columns for some windows; gradients and codes of neighbouring filters for
// some windows. In every turn the same ones, of later windows.
template <class Tile>
class WindowCopies {
    using T = typename Tile::T;
    using Parameters = WgradWindowsParameters<T>;
    static constexpr int vector = Tile::vector;

    // A turn's windows, in parts of `in_window` neighbours, dealt out to the threads.
    template <int in_window>
    struct Share {
        static constexpr int apart = Tile::threads / in_window;  // windows of a thread
        FASTCONV_DEVICE static int part() { return simt::thread() % in_window; }
        FASTCONV_DEVICE static int window() { return simt::thread() / in_window; }
        template <class Visit>
        FASTCONV_DEVICE static void each(const Visit& visit) {
            FASTCONV_UNROLL
            for (int i = 0; i < Tile::windows; i += apart)
                if (apart <= Tile::windows || window() < Tile::windows) visit(window() + i, i);
        }
    };
    using XShare = Share<Tile::columns / vector>;
    using GradientShare = Share<Tile::rows / vector>;
    using CodeShare = Share<Tile::rows / 8>;

public:
    // Windows between those whose x a thread copies.
    static constexpr int hop = XShare::apart;

    // Columns without a tap, ones for the bias and zeros, stay in all stages.
    FASTCONV_DEVICE WindowCopies(const Parameters& d, const WgradWindowsBlock& block,
                                 const WgradWindowsMemory<Tile>& memory, int first_window)
        : window_(first_window), walker_(d.walk, first_window + XShare::window()) {
        const int filter = block.first_row + GradientShare::part() * vector;
        const int code_filter = block.first_row + CodeShare::part() * 8;
        const int64_t first_filter = block.group * d.conv.filters;
        gradients_ = d.dy + (first_window + GradientShare::window()) * int64_t(d.conv.K) + first_filter + filter;
        codes_ =
            d.code + (first_window + CodeShare::window()) * int64_t(d.code_step) + (first_filter + code_filter) / 2;
        has_filter_ = filter < d.conv.filters, has_code_ = code_filter < d.conv.filters;

        const int column = block.first_column + XShare::part() * vector;
        has_tap_ = column < d.weight_columns;
        if (has_tap_) {
            const Tap t = d.taps.at(column);
            const int h = t.r * d.conv.dilation_h - d.conv.pad_h, w = t.s * d.conv.dilation_w - d.conv.pad_w;
            column_ = {d.x_strides.at(0, block.group * d.conv.channels + t.c, h, w), h, w, 0, 0};
        } else {
            simt::Pack<T, vector> ones;
            for (int v = 0; v < vector; ++v) ones[v] = T(column + v < d.columns ? 1.0f : 0.0f);
            for (int stage = 0; stage < Tile::Mma::stages; ++stage)
                for (int step = XShare::window(); step < Tile::Mma::steps; step += XShare::apart)
                    simt::store(memory.x(stage) + x_place(step), ones);
        }
    }

    // The next turn's, to a stage; gradients are zero beyond the last window.
    FASTCONV_DEVICE void copy(const Parameters& d, const WgradWindowsMemory<Tile>& memory, int stage) {
        GradientShare::each([&](int window, int i) {
            simt::copy_async<vector>(
                memory.gradients(stage) + Tile::gradient_place(window, GradientShare::part() * vector),
                gradients_ + int64_t(i) * d.conv.K, has_filter_ && window_ + window < d.windows);
        });
        CodeShare::each([&](int window, int i) {
            simt::copy_async<4>(memory.codes(stage) + Tile::code_place(window, CodeShare::part() * 8),
                                codes_ + int64_t(i) * d.code_step, has_code_ && window_ + window < d.windows);
        });
        window_ += Tile::windows;
        gradients_ += int64_t(Tile::windows) * d.conv.K, codes_ += int64_t(Tile::windows) * d.code_step;
        if (!has_tap_) return;
        XShare::each([&](int window, int) {
            const Site first = column_ + walker_.site(d.walk);
            walker_.next(d.walk, d.walk.hop);
            FASTCONV_UNROLL
            for (int position = 0; position < 4; ++position) {
                Site site = first;
                if (position / 2) site = site + d.below;
                if (position % 2) site = site + d.right;
                simt::copy_async<vector>(memory.x(stage) + x_place(Tile::slot(window, position)), d.x.at(site),
                                         d.x.inside(site));
            }
        });
    }

private:
    FASTCONV_DEVICE static int x_place(int step) {
        return Tile::Mma::template place<true, Tile::columns>(step, XShare::part() * vector);
    }

    int window_;  // the next turn's first
    const T* gradients_;
    const uint8_t* codes_;
    Walker walker_;
    Site column_;
    bool has_filter_, has_code_, has_tap_;
};

// The sparse product of 16 rows x 8 columns x 64 bytes of steps.
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

// The codes of 4 or 8 neighbouring filters, 4 bits each.
template <int filters>
FASTCONV_DEVICE uint32_t read_codes(const uint8_t* from) {
    if constexpr (filters == 8) return simt::load<1>(reinterpret_cast<const uint32_t*>(from))[0];
    else return simt::load<1>(reinterpret_cast<const uint16_t*>(from))[0];
}

// Deals out the metadata of sparse products. A lane knows the nibbles of its filters in one window or two: byte m of
// a word has those of both its rows in product m. A product wants them from lanes 2 * selector, of the first four
// windows, and the next lane, of the others, in one word: nibbles of one row in four windows, then of the other.
class Metadata {
public:
    FASTCONV_DEVICE Metadata() : order_(0x6240) {  // of bytes, see below: from lanes t, t ^ 1, t ^ 2, t ^ 3
        if (simt::lane() & 1) order_ = (order_ & 0x0f0f) << 4 | (order_ >> 4 & 0x0f0f);
        if (simt::lane() & 2) order_ = (order_ & 0x00ff) << 8 | order_ >> 8;
    }
    // words[i]: of product 2 * i for selector 0 and of the next for selector 1.
    template <int count>
    FASTCONV_DEVICE void deal_out(uint32_t (&words)[count], uint32_t first, uint32_t second) const {
        const bool upper = simt::lane() & 2, odd = simt::lane() & 1;
        const uint32_t even_products = simt::permute(first, second, 0x6420);
        const uint32_t odd_products = simt::permute(first, second, 0x7531);
        const uint32_t kept = upper ? odd_products : even_products;
        const uint32_t got = simt::shuffle_xor(upper ? even_products : odd_products, 2);
        const uint32_t firsts = simt::permute(kept, got, 0x5410), seconds = simt::permute(kept, got, 0x7632);
        const uint32_t mine = odd ? seconds : firsts, neighbours = simt::shuffle_xor(odd ? firsts : seconds, 1);
        FASTCONV_UNROLL
        for (int i = 0; i < count; ++i) {
            const uint32_t bytes = simt::permute(mine, neighbours, order_ + 0x1111u * unsigned(i));
            const uint32_t low = bytes & 0x0f0f0f0f, high = bytes >> 4 & 0x0f0f0f0f;
            words[i] = simt::permute(low | low >> 4, high | high >> 4, 0x6420);
        }
    }

private:
    uint32_t order_;
};

// The left side of the products of Tile::together windows.
template <class Tile>
class WindowOperand {
    using T = typename Tile::T;
    static constexpr bool sparse = Tile::sparse, small = sizeof(T) == 2;
    static constexpr int high = Tile::Mma::warp_rows / 16, halves = Tile::together / 4;

public:
    uint32_t a[sparse ? 1 : 2][high][4];  // a sparse product has all of the steps, another one half of them
    uint32_t metadata[high / 2];

    // From a stage, beginning at a window.
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
            // Which two of four neighbours a register holds, 0 and 1 or 2 and 3. Of TF32, which of two, 0 or 1.
            nibbles[half] = 0x44444444 + ((small ? winners >> 1 : winners) & 0x11111111) * 10;
        }
        if constexpr (sparse) dealer.deal_out(metadata, nibbles[0], nibbles[halves - 1]);
    }

private:
    // Puts gradients of filters from number `first` of the lane's on where their winners are; dead ones are nowhere.
    FASTCONV_DEVICE void put_run(int half, int first, const T* gradients, uint32_t winners) {
        if constexpr (small) {
            const auto pairs = simt::load<Tile::run / 2>(reinterpret_cast<const uint32_t*>(gradients));
            FASTCONV_UNROLL
            for (int v = 0; v < Tile::run; ++v) {
                const uint32_t gradient = v % 2 ? pairs[v / 2] >> 16 : pairs[v / 2] & 0xffff;
                const uint32_t bits = v == 0 ? winners << 4 : winners >> (4 * v - 4);  // 16 a position
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

// The right side of these products: four chunks of steps of eight columns.
template <class Tile>
FASTCONV_DEVICE void read_columns(uint32_t (&to)[4], const typename Tile::T* x, int column, int step) {
    const auto place = [](int step, int column) {
        return Tile::Mma::template place<true, Tile::columns>(step, column);
    };
    if constexpr (sizeof(typename Tile::T) == 2) {
        simt::ldmatrix_x4_trans(to, x + place(step + simt::lane(), column));
    } else {  // ldmatrix transposes elements of 16 bits only
        FASTCONV_UNROLL
        for (int i = 0; i < 4; ++i)
            to[i] = simt::float_bits(x[place(step + i * 4 + simt::lane() % 4, column + simt::lane() / 4)]);
    }
    Mma<typename Tile::T>::round(to);
}

// One turn of the main loop.
template <class Tile>
FASTCONV_DEVICE void add_windows(Sums<typename Tile::Mma>& sums, const WgradWindowsMemory<Tile>& memory, int stage,
                                 const Metadata& dealer) {
    using T = typename Tile::T;
    using MmaSums = Sums<typename Tile::Mma>;
    FASTCONV_UNROLL
    for (int first = 0; first < Tile::windows; first += Tile::together) {
        WindowOperand<Tile> left;
        left.read(memory.gradients(stage), memory.codes(stage), first, dealer);
        FASTCONV_UNROLL
        for (int n = 0; n < MmaSums::wide; ++n) {
            uint32_t right[4];
            read_columns<Tile>(right, memory.x(stage), MmaSums::first_column() + n * 8, 4 * first);
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

template <class T, class Tile>
FASTCONV_KERNEL_BOUNDS(Tile::threads, Tile::Mma::fewer_blocks)
conv2d_wgrad_windows_kernel(const WgradWindowsParameters<T> d) {
    constexpr int stages = Tile::Mma::stages, ahead = stages - 1;
    simt::Shared shared = simt::block_shared();
    const WgradWindowsMemory<Tile> memory(shared);
    WgradWindowsBlock& block = *memory.block;
    if (simt::thread() == 0) {
        int rest = simt::block().x;
        block.first_row = rest % d.row_tiles * Tile::rows;
        rest /= d.row_tiles;
        block.first_column = rest % d.column_tiles * Tile::columns;
        rest /= d.column_tiles;
        block.group = rest % d.conv.groups, block.split = rest / d.conv.groups;
    }
    simt::sync();

    const int first_window = block.split * d.windows_per_split;
    const int turns = ceil_div(least(d.windows - first_window, d.windows_per_split), Tile::windows);
    WindowCopies<Tile> copies(d, block, memory, first_window);
    const auto copy = [&](bool wanted, int stage) {
        if (wanted) copies.copy(d, memory, stage);
        simt::copy_commit();  // without copies too: a turn is a group
    };
    const Metadata dealer;
    Sums<typename Tile::Mma> sums;
    sums.clear();
    FASTCONV_NO_UNROLL
    for (int turn = 0; turn < ahead; ++turn) copy(turn < turns, turn);
    int full = 0, free = ahead;  // stages
    FASTCONV_NO_UNROLL
    for (int turn = 0; turn < turns; ++turn) {
        simt::copy_wait<ahead - 1>();
        simt::sync();  // all have the turn's copies, and all are done with the stage that the next ones go to
        copy(turn + ahead < turns, free);
        add_windows(sums, memory, full, dealer);
        full = full == ahead ? 0 : full + 1;
        free = free == ahead ? 0 : free + 1;
    }
    simt::copy_wait<0>();
    simt::sync();

    float* const buffer = reinterpret_cast<float*>(memory.buffer);
    sums.store(buffer, [](int) { return 0.0f; });
    simt::sync();
    const int filters = d.conv.filters - block.first_row, columns = d.columns - block.first_column;
    const int64_t first_k = int64_t(block.split) * d.conv.K + block.group * d.conv.filters + block.first_row;
    for (int i = simt::thread(); i < Tile::rows * Tile::columns; i += Tile::threads) {
        const int row = i / Tile::columns, column = i % Tile::columns;
        // As Sums has them: 16 rows a product, of which a lane has row lane / 4 and the eighth after it.
        const int warp_row = row % Tile::Mma::warp_rows;
        const int k = row - warp_row + Tile::filter(warp_row % 8 * 4, warp_row / 8);
        if (k < filters && column < columns)
            d.partial[(first_k + k) * d.columns + block.first_column + column] =
                buffer[Tile::Mma::sum_place(row, column)];
    }
}

}  // namespace fastconv::cuda
