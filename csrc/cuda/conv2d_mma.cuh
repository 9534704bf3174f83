// conv2d_gemm.cuh's product on tensor cores, summed in float:
//
//   a block   computes Tile::rows x Tile::columns sums and runs over all its steps, Tile::steps at a time, of which
//             Tile::stages lie in shared memory: one is multiplied while the next ones are still being copied
//   a warp    owns warp_rows x warp_columns sums; two chunks of steps at a time it reads warp_rows + warp_columns lines
//             by ldmatrix for warp_rows * warp_columns * 2 chunks' products, so that 64 x 64 needs a quarter of what
//             shared memory can deliver to tensor cores
//   a thread  copies 16 bytes at a time (a chunk: neighbouring steps of one row or column, a line) straight to shared
//             memory where they lie together in global memory; otherwise it reads the elements by themselves, its
//             neighbours those of neighbouring lines
//
// A thread moves the same lines in every turn and keeps their sites in registers. Its steps are counted in three digits
// (Walk), so that the main loop has carries where dividing would give the tap.
//
// Chunk c of line l stands in shared memory at chunk c ^ swizzle(l) of the line. So eight neighbouring lines' chunks c,
// which an ldmatrix reads, lie in different banks, and so do eight neighbouring chunks of a copy.
#pragma once

#include "conv2d_gemm.cuh"

namespace fastconv::cuda {

// A type's product of 16 rows x 8 columns x 32 bytes of steps.
template <class T>
struct Mma;
template <>
struct Mma<simt::half> {
    FASTCONV_DEVICE static void add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        simt::mma_fp16(d, a, b);
    }
};
template <>
struct Mma<simt::bfloat16> {
    FASTCONV_DEVICE static void add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        simt::mma_bf16(d, a, b);
    }
};

template <class T_, int rows_, int columns_, int steps_, int stages_, int warp_rows_, int warp_columns_>
struct MmaTile {
    using T = T_;
    using Acc = float;
    static constexpr bool tensor_cores = true;
    static constexpr int rows = rows_, columns = columns_, steps = steps_, stages = stages_;
    static constexpr int warp_rows = warp_rows_, warp_columns = warp_columns_;
    static constexpr int warps_along_columns = columns / warp_columns;
    static constexpr int threads = 32 * (rows / warp_rows) * warps_along_columns;
    // On a multiprocessor, as its registers allow: besides the sums, about 96, or 128 in a kernel that keeps more.
    static constexpr int sums = warp_rows * warp_columns / 32;
    static constexpr int blocks = 65536 / threads / (sums + 96), fewer_blocks = 65536 / threads / (sums + 128);
    static constexpr int vector = 16 / int(sizeof(T)), chunks = steps / vector;
    static constexpr int stage = (rows + columns) * steps;
    // The sums, [row][column]: a thread stores two at a time, rows apart by 8 banks; write_tile() reads four, at best
    // of eight neighbouring rows. Both are free of conflicts if every other four rows have pairs of chunks exchanged.
    static constexpr int column_chunk = 4, sum_stride = columns + 8;
    static constexpr int stage_words = stages * stage * int(sizeof(T)) / 4;
    static constexpr int buffer = stage_words > rows* sum_stride ? stage_words : rows * sum_stride;

    FASTCONV_DEVICE static int sum_place(int row, int column) { return row * sum_stride + (column ^ (row & 4)); }
    // Where a line's chunk begins.
    FASTCONV_DEVICE static int chunk_place(int line, int chunk) {
        static_assert(chunks == 4 || chunks == 8, "a line has a half or all of the banks");
        return line * steps + (chunk ^ line / (8 / chunks) % chunks) * vector;
    }
};

template <class T>
struct MmaTiles {
    using wide = MmaTile<T, 128, 128, 32, 4, 64, 64>;
    using middle = MmaTile<T, 128, 64, 32, 4, 64, 32>;
    using narrow = MmaTile<T, 128, 32, 32, 4, 32, 32>;
};

// Site arithmetic that may wrap around: beyond the last step, where nobody looks at the result.
FASTCONV_HOST_DEVICE Site wrapped(const Site& a, const Site& b, int times) {
    const auto add = [times](int c, int d) { return int(unsigned(c) + unsigned(d) * unsigned(times)); };
    return {a.offset + b.offset * times, add(a.h, b.h), add(a.w, b.w), add(a.n, b.n), add(a.k, b.k)};
}

// One of the digits by which steps are counted: how many values it has, and where one more of it leads.
struct Digit {
    int extent;  // counts as 1 if it is 0, when there are no steps
    Site unit;
};

// An operand's steps in the order in which they are counted, as digits of which the first changes fastest.
struct Walk {
    struct Stride {  // some steps on: what it adds to the digits, and to the site if no digit overflows
        int digit[3];
        Site site;
    };
    int extent[3];
    Site unit[3], carry[2];  // carry: what it adds if one does
    Stride turn;             // of the main loop

    Walk() = default;
    FASTCONV_HOST_DEVICE Walk(const Digit& inner, const Digit& middle, const Digit& outer, int steps_of_turn)
        : unit{inner.unit, middle.unit, outer.unit} {
        const Digit* const digits[] = {&inner, &middle, &outer};
        for (int i = 0; i < 3; ++i) extent[i] = digits[i]->extent > 1 ? digits[i]->extent : 1;
        for (int i = 0; i < 2; ++i) carry[i] = wrapped(unit[i + 1], unit[i], -extent[i]);
        turn = stride(steps_of_turn);
    }
    FASTCONV_HOST_DEVICE Stride stride(int steps) const {
        Stride s{{steps % extent[0], steps / extent[0] % extent[1], steps / extent[0] / extent[1]}, Site()};
        for (int i = 0; i < 3; ++i) s.site = wrapped(s.site, unit[i], s.digit[i]);
        return s;
    }
};

// A place on a walk.
class Walker {
public:
    FASTCONV_DEVICE Walker(const Walk& walk, int step) : at_(walk.stride(step)) {}
    FASTCONV_DEVICE void next_step(const Walk& walk) { add(walk, 1, 0, 0, walk.unit[0]); }
    FASTCONV_DEVICE void next_turn(const Walk& walk) {
        add(walk, walk.turn.digit[0], walk.turn.digit[1], walk.turn.digit[2], walk.turn.site);
    }
    FASTCONV_DEVICE Site site(const Walk& walk) const {
        Site site = at_.site;
        if (at_.digit[2] >= walk.extent[2]) site = no_site();
        return site;
    }

private:
    FASTCONV_DEVICE void add(const Walk& walk, int inner, int middle, int outer, const Site& site) {
        at_.site = wrapped(at_.site, site, 1);
        at_.digit[0] += inner, at_.digit[1] += middle, at_.digit[2] += outer;
        FASTCONV_UNROLL
        for (int i = 0; i < 2; ++i) {
            if (at_.digit[i] < walk.extent[i]) continue;
            at_.digit[i] -= walk.extent[i];
            ++at_.digit[i + 1];
            at_.site = wrapped(at_.site, walk.carry[i], 1);
        }
    }

    Walk::Stride at_;
};

// A block's shared memory: the operands' stages, afterwards the sums.
template <class T, int... sizes>
struct GemmMemory<MmaTile<T, sizes...>> {
    using Tile = MmaTile<T, sizes...>;
    Sites<Tile::column_chunk> rows, columns;
    float* buffer;
    FASTCONV_HOST_DEVICE explicit GemmMemory(simt::Shared& shared)
        : rows(shared, Tile::rows), columns(shared, Tile::columns), buffer(shared.take<float>(Tile::buffer)) {}
    FASTCONV_DEVICE T* stage(int i) const { return reinterpret_cast<T*>(buffer) + i * Tile::stage; }
};

// What a thread copies of one operand.
template <class Tile, int lines, class Source>
class MmaOperand {
    using T = typename Tile::T;
    static constexpr int vector = Tile::vector, chunks = Tile::chunks;
    static constexpr int each = lines * chunks / Tile::threads;  // chunks of a thread
    static_assert(lines * chunks % Tile::threads == 0 && Tile::threads % lines == 0);

public:
    FASTCONV_DEVICE MmaOperand(const Source& source, const Walk& walk, const Sites<Tile::column_chunk>& sites)
        : vectors_(source.lanes == Lanes::step_vectors),
          line_(vectors_ ? simt::thread() / chunks : simt::thread() % lines),
          chunk_(vectors_ ? simt::thread() % chunks : simt::thread() / lines * each),
          walker_(walk, chunk_ * vector) {
        FASTCONV_UNROLL
        for (int i = 0; i < each; ++i)
            if (i == 0 || vectors_) site_[i] = sites.get(line_ + i * lines_apart);
    }

    // One turn's, to a stage.
    FASTCONV_DEVICE void copy(const Source& source, const Walk& walk, T* to) {
        if (vectors_) {
            const Site step = walker_.site(walk);
            FASTCONV_UNROLL
            for (int i = 0; i < each; ++i) {
                const Site site = site_[i] + step;
                simt::copy_async<vector>(to + Tile::chunk_place(line_ + i * lines_apart, chunk_),
                                         source.view.data + site.offset, source.view.inside(site));
            }
        } else {
            Walker walker = walker_;
            FASTCONV_NO_UNROLL
            for (int i = 0; i < each; ++i) {
                simt::Pack<T, vector> pack;
                FASTCONV_UNROLL
                for (int v = 0; v < vector; ++v) {
                    pack[v] = T(source.view.template get<1>(site_[0] + walker.site(walk))[0]);
                    walker.next_step(walk);
                }
                simt::store(to + Tile::chunk_place(line_, chunk_ + i), pack);
            }
        }
        walker_.next_turn(walk);
    }

private:
    static constexpr int lines_apart = Tile::threads / chunks;

    bool vectors_;
    int line_, chunk_;  // the first
    Walker walker_;
    Site site_[each];
};

// A thread's sums, as tensor cores deal them out, and where in the tile they stand.
template <class T, int... sizes>
struct Sums<MmaTile<T, sizes...>> {
    using Tile = MmaTile<T, sizes...>;
    static constexpr int high = Tile::warp_rows / 16, wide = Tile::warp_columns / 8;
    static_assert(wide % 2 == 0, "ldmatrix_x4 reads two products' columns");
    float value[high][wide][4];

    FASTCONV_DEVICE static int first_row() { return simt::warp() / Tile::warps_along_columns * Tile::warp_rows; }
    FASTCONV_DEVICE static int first_column() { return simt::warp() % Tile::warps_along_columns * Tile::warp_columns; }

    FASTCONV_DEVICE void clear() {
        FASTCONV_UNROLL
        for (int m = 0; m < high; ++m) {
            FASTCONV_UNROLL
            for (int n = 0; n < wide; ++n) {
                FASTCONV_UNROLL
                for (int i = 0; i < 4; ++i) value[m][n][i] = 0;
            }
        }
    }

    // One turn of the main loop: a stage's rows and columns.
    FASTCONV_DEVICE void add_products(const T* rows, const T* columns) {
        const int lane = simt::lane();
        const int row = first_row() + lane % 16, column = first_column() + lane / 16 * 8 + lane % 8;
        FASTCONV_UNROLL
        for (int chunk = 0; chunk < Tile::chunks; chunk += 2) {
            uint32_t a[high][4], b[wide / 2][4];
            FASTCONV_UNROLL
            for (int m = 0; m < high; ++m)
                simt::ldmatrix_x4(a[m], rows + Tile::chunk_place(row + m * 16, chunk + lane / 16));
            FASTCONV_UNROLL
            for (int n = 0; n < wide / 2; ++n)
                simt::ldmatrix_x4(b[n], columns + Tile::chunk_place(column + n * 16, chunk + lane / 8 % 2));
            FASTCONV_UNROLL
            for (int m = 0; m < high; ++m) {
                FASTCONV_UNROLL
                for (int n = 0; n < wide; ++n) {
                    const uint32_t right[2] = {b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]};
                    Mma<T>::add(value[m][n], a[m], right);
                }
            }
        }
    }

    // Puts value + bias[column] into shared memory, [row][column].
    template <class Bias>
    FASTCONV_DEVICE void store(float* to, const Bias& bias) const {
        FASTCONV_UNROLL
        for (int n = 0; n < wide; ++n) {
            const int column = first_column() + n * 8 + simt::lane() % 4 * 2;
            const float add[2] = {bias(column), bias(column + 1)};
            FASTCONV_UNROLL
            for (int m = 0; m < high; ++m) {
                FASTCONV_UNROLL
                for (int i = 0; i < 2; ++i) {
                    const int row = first_row() + m * 16 + i * 8 + simt::lane() / 4;
                    const simt::Pack<float, 2> pair{{value[m][n][2 * i] + add[0], value[m][n][2 * i + 1] + add[1]}};
                    simt::store(to + Tile::sum_place(row, column), pair);
                }
            }
        }
    }
};

// The main loop. The caller has put the sites of rows and columns into shared memory; a barrier follows here. After it
// has returned, all of `memory` may be written.
template <class T, int... sizes, class A, class B>
FASTCONV_DEVICE void gemm(Sums<MmaTile<T, sizes...>>& sums, const GemmMemory<MmaTile<T, sizes...>>& memory, const A& a,
                          const Walk& a_walk, const B& b, const Walk& b_walk, int steps) {
    using Tile = MmaTile<T, sizes...>;
    constexpr int ahead = Tile::stages - 1;
    const int turns = ceil_div(steps, Tile::steps);
    sums.clear();
    simt::sync();
    MmaOperand<Tile, Tile::rows, A> next_a(a, a_walk, memory.rows);
    MmaOperand<Tile, Tile::columns, B> next_b(b, b_walk, memory.columns);
    const auto copy = [&](bool wanted, int stage) {
        if (wanted) {
            next_a.copy(a, a_walk, memory.stage(stage));
            next_b.copy(b, b_walk, memory.stage(stage) + Tile::rows * Tile::steps);
        }
        simt::copy_commit();  // without copies too: a turn is a group
    };
    FASTCONV_NO_UNROLL
    for (int turn = 0; turn < ahead; ++turn) copy(turn < turns, turn);
    int full = 0, free = ahead;  // stages
    FASTCONV_NO_UNROLL
    for (int turn = 0; turn < turns; ++turn) {
        simt::copy_wait<ahead - 1>();
        simt::sync();  // all have the turn's copies, and all are done with the stage that the next ones go to
        copy(turn + ahead < turns, free);
        sums.add_products(memory.stage(full), memory.stage(full) + Tile::rows * Tile::steps);
        full = full == ahead ? 0 : full + 1;
        free = free == ahead ? 0 : free + 1;
    }
    simt::copy_wait<0>();
    simt::sync();
}

}  // namespace fastconv::cuda
