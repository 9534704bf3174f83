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
    static constexpr int windows = Mma::steps / 4;                             // of a turn
    static constexpr int together = sparse && sizeof(T) == 2 ? 8 : 4;          // that all lanes multiply at once
    static constexpr int filters = Mma::warp_rows / 8;                         // of a thread
    static constexpr int run = filters < Mma::vector ? filters : Mma::vector;  // of these, neighbours
    static constexpr int eight_codes = 8;                                      // in bytes
    static constexpr int gradient_bytes = windows * rows * int(sizeof(T)),
                         code_bytes = windows * rows / 8 * eight_codes;
    static constexpr int stage = gradient_bytes + code_bytes + Mma::steps * columns * int(sizeof(T));
    static constexpr int sum_bytes = rows * Mma::sum_stride * 4;
    static constexpr int buffer = Mma::stages * stage > sum_bytes ? Mma::stages * stage : sum_bytes;

    // A position's number among the steps. Products read them in this order, so that those of a window, as far as one
    // product has them, are one thread's.
    FASTCONV_DEVICE static int slot(int window, int position) {
        if constexpr (together == 8) return window * 4 + position;
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
        return (window * (rows / 8) + (filter / 8 ^ with)) * eight_codes + filter % 8 * eight_codes / 8;
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
    ImageView<T, true> x;
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

// What a thread copies: of x, one chunk of columns for some windows; of gradients and codes, chunks of filters.
template <class Tile>
class WindowCopies {
    using T = typename Tile::T;
    static constexpr int vector = Tile::vector, chunks = Tile::columns / vector, apart = Tile::threads / chunks;
    static_assert(Tile::windows % apart == 0);

public:
    // Windows between those whose x a thread copies.
    static constexpr int hop = apart;

    FASTCONV_DEVICE WindowCopies(const WgradWindowsParameters<T>& d, const WgradWindowsBlock& block, int first_window)
        : walker_(d.walk, first_window + window()), column_(no_site()) {
        const int column = block.first_column + chunk() * vector;
        const Tap t = d.taps.at(column);
        const int h = t.r * d.conv.dilation_h - d.conv.pad_h, w = t.s * d.conv.dilation_w - d.conv.pad_w;
        if (column < d.weight_columns)
            column_ = {d.x_strides.at(0, block.group * d.conv.channels + t.c, h, w), h, w, 0, 0};
        else if (column < d.columns) column_.k = 1;
    }

    FASTCONV_DEVICE void copy_x(const WgradWindowsParameters<T>& d, T* to) {
        FASTCONV_UNROLL
        for (int i = 0; i < Tile::windows; i += apart) {
            const Site first = column_ + walker_.site(d.walk);
            walker_.next(d.walk, d.walk.hop);
            FASTCONV_UNROLL
            for (int position = 0; position < 4; ++position) {
                Site site = first;
                if (position / 2) site = site + d.below;
                if (position % 2) site = site + d.right;
                T* const at = to + Tile::Mma::template place<true, Tile::columns>(Tile::slot(window() + i, position),
                                                                                  chunk() * vector);
                if (d.x.copied(site)) {
                    simt::copy_async<vector>(at, d.x.at(site), d.x.inside(site));
                } else {
                    simt::Pack<T, vector> ones;
                    FASTCONV_UNROLL
                    for (int v = 0; v < vector; ++v) ones[v] = T(v == 0 ? 1.0f : 0.0f);
                    simt::store(at, ones);
                }
            }
        }
    }

    // Zeros beyond the last window.
    FASTCONV_DEVICE static void copy_gradients(const WgradWindowsParameters<T>& d, const WgradWindowsBlock& block,
                                               int first_window, T* to) {
        each<vector>(d, block, first_window, [&](int window, int filter, bool valid) {
            const T* const from = d.dy + (int64_t(first_window + window) * d.conv.K +
                                          (block.group * d.conv.filters + block.first_row + filter));
            simt::copy_async<vector>(to + Tile::gradient_place(window, filter), from, valid);
        });
    }
    FASTCONV_DEVICE static void copy_codes(const WgradWindowsParameters<T>& d, const WgradWindowsBlock& block,
                                           int first_window, uint8_t* to) {
        constexpr int eight = Tile::eight_codes;
        each<8>(d, block, first_window, [&](int window, int filter, bool valid) {
            const uint8_t* const from =
                d.code + (int64_t(first_window + window) * d.code_step +
                          (block.group * d.conv.filters + block.first_row + filter) / 8 * eight);
            simt::copy_async<eight>(to + Tile::code_place(window, filter), from, valid);
        });
    }

private:
    FASTCONV_DEVICE static int chunk() { return simt::thread() % chunks; }
    FASTCONV_DEVICE static int window() { return simt::thread() / chunks; }

    // Calls visit(window, first filter, whether they exist) for this thread's share of `size` filters each.
    template <int size, class Visit>
    FASTCONV_DEVICE static void each(const WgradWindowsParameters<T>& d, const WgradWindowsBlock& block,
                                     int first_window, const Visit& visit) {
        constexpr int in_window = Tile::rows / size, all = Tile::windows * in_window;
        FASTCONV_UNROLL
        for (int i = 0; i < all; i += Tile::threads) {
            const int e = simt::thread() + i, window = e / in_window, filter = e % in_window * size;
            if (all % Tile::threads && e >= all) continue;
            visit(window, filter, first_window + window < d.windows && block.first_row + filter < d.conv.filters);
        }
    }

    Walker walker_;
    Site column_;
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

FASTCONV_DEVICE uint32_t operand_bits(float value) { return simt::to_tf32(value); }
FASTCONV_DEVICE uint32_t operand_bits(simt::half value) { return value.bits; }
FASTCONV_DEVICE uint32_t operand_bits(simt::bfloat16 value) { return value.bits; }

// The left side of the products of Tile::together windows.
template <class Tile>
class WindowOperand {
    using T = typename Tile::T;
    static constexpr bool sparse = Tile::sparse, small = sizeof(T) == 2;
    static constexpr int high = Tile::Mma::warp_rows / 16, lanes_windows = Tile::together / 4;

public:
    static constexpr int products = !sparse && !small ? 2 : 1;  // that have these steps one after the other
    uint32_t a[products][high][4];
    uint32_t metadata[high / 2];  // of two neighbours in `high`, for selectors 0 and 1

    // From a stage, beginning at a window.
    FASTCONV_DEVICE void read(const T* gradients, const uint8_t* codes, int first_window) {
        constexpr int run = Tile::run;
        const int lane = simt::lane(), first_row = Sums<typename Tile::Mma>::first_row();
        uint32_t nibbles[high][lanes_windows];
        FASTCONV_UNROLL
        for (int half = 0; half < lanes_windows; ++half) {
            const int window = first_window + half * 4 + lane % 4;
            FASTCONV_UNROLL
            for (int i = 0; i < Tile::filters; i += run) {
                const int filter = first_row + Tile::filter(lane, i);
                const auto gradient = simt::load<run>(gradients + Tile::gradient_place(window, filter));
                const auto code = simt::load<run * Tile::eight_codes / 8>(codes + Tile::code_place(window, filter));
                FASTCONV_UNROLL
                for (int v = 0; v < run; ++v) {
                    const int m = (i + v) / 2, row = (i + v) % 2;
                    const uint32_t winner = code[v], alive = winner < 4 ? operand_bits(gradient[v]) : 0;
                    put(m, row, half, alive, winner);
                    if (row == 0) nibbles[m][half] = 0;
                    nibbles[m][half] |= nibble(winner) << (16 * row + 4 * (lane % 4));
                }
            }
        }
        if constexpr (sparse) {
            FASTCONV_UNROLL
            for (int m = 0; m < high; m += 2) metadata[m / 2] = gather(nibbles[m], nibbles[m + 1]);
        }
    }

private:
    // Puts a gradient, zero if it is dead, where its winner is.
    FASTCONV_DEVICE void put(int m, int row, int half, uint32_t gradient, uint32_t winner) {
        if constexpr (sparse && small) {
            a[0][m][row + 2 * half] = gradient << (winner % 2 * 16);
        } else if constexpr (sparse) {
            a[0][m][row] = winner < 2 ? gradient : 0;
            a[0][m][row + 2] = winner < 2 ? 0 : gradient;
        } else if constexpr (small) {
            const uint64_t window = uint64_t(gradient) << (winner % 4 * 16);
            a[0][m][row] = uint32_t(window);
            a[0][m][row + 2] = uint32_t(window >> 32);
        } else {
            FASTCONV_UNROLL
            for (int position = 0; position < 4; ++position)
                a[position / 2][m][row + position % 2 * 2] = winner == unsigned(position) ? gradient : 0;
        }
    }
    // Which two of four neighbours a register holds: 0 and 1, or 2 and 3. Of TF32, which of two: 0 or 1.
    FASTCONV_DEVICE static uint32_t nibble(uint32_t winner) {
        return 4 | ((small ? winner / 2 : winner) % 2 != 0 ? 10 : 0);
    }
    // Four lanes have a nibble each of rows' words. Lanes 0 and 1 get the first rows' two whole words, 2 and 3 the
    // second rows'. Of TF32 both words are the same, because both chunks of a window are.
    FASTCONV_DEVICE static uint32_t gather(const uint32_t (&first)[lanes_windows],
                                           const uint32_t (&second)[lanes_windows]) {
        const bool upper = simt::lane() & 2, odd = simt::lane() & 1;
        uint32_t mine[lanes_windows];
        FASTCONV_UNROLL
        for (int half = 0; half < lanes_windows; ++half) {
            const uint32_t others = upper ? first[half] : second[half];
            mine[half] = (upper ? second[half] : first[half]) | simt::shuffle_xor(others, 2);
        }
        constexpr int last = lanes_windows - 1;
        return (odd ? mine[last] : mine[0]) | simt::shuffle_xor(odd ? mine[0] : mine[last], 1);
    }
};

// One turn of the main loop.
template <class Tile>
FASTCONV_DEVICE void add_windows(Sums<typename Tile::Mma>& sums, const WgradWindowsMemory<Tile>& memory, int stage) {
    using T = typename Tile::T;
    using MmaSums = Sums<typename Tile::Mma>;
    constexpr int chunk = 2 * Tile::vector, loads = 4 * Tile::together / chunk;
    FASTCONV_UNROLL
    for (int first = 0; first < Tile::windows; first += Tile::together) {
        WindowOperand<Tile> left;
        left.read(memory.gradients(stage), memory.codes(stage), first);
        FASTCONV_UNROLL
        for (int n = 0; n < MmaSums::wide; n += 2) {
            uint32_t b[loads][4];
            FASTCONV_UNROLL
            for (int i = 0; i < loads; ++i)
                MmaSums::template load<true, Tile::columns, false>(
                    b[i], memory.x(stage), MmaSums::first_column() + n * 8, 4 * first + i * chunk);
            FASTCONV_UNROLL
            for (int m = 0; m < MmaSums::high; ++m) {
                FASTCONV_UNROLL
                for (int side = 0; side < 2; ++side) {
                    float (&sum)[4] = sums.value[m][n + side];
                    if constexpr (Tile::sparse) {
                        const uint32_t right[4] = {b[0][2 * side], b[0][2 * side + 1], b[1][2 * side],
                                                   b[1][2 * side + 1]};
                        if (m % 2) SparseMma<T>::template add<1>(sum, left.a[0][m], right, left.metadata[m / 2]);
                        else SparseMma<T>::template add<0>(sum, left.a[0][m], right, left.metadata[m / 2]);
                    } else {
                        FASTCONV_UNROLL
                        for (int i = 0; i < loads; ++i) {
                            const uint32_t right[2] = {b[i][2 * side], b[i][2 * side + 1]};
                            Mma<T>::add(sum, left.a[i][m], right);
                        }
                    }
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

    int window = block.split * d.windows_per_split;  // the next to be copied
    const int turns = ceil_div(least(d.windows - window, d.windows_per_split), Tile::windows);
    WindowCopies<Tile> copies(d, block, window);
    const auto copy = [&](bool wanted, int stage) {
        if (wanted) {
            copies.copy_gradients(d, block, window, memory.gradients(stage));
            copies.copy_codes(d, block, window, memory.codes(stage));
            copies.copy_x(d, memory.x(stage));
            window += Tile::windows;
        }
        simt::copy_commit();  // without copies too: a turn is a group
    };
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
        add_windows(sums, memory, full);
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
