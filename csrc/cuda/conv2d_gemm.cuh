// The matrix product behind every direction of the convolution, in the accumulator's exact arithmetic (no tensor
// cores):
//
//     sum[row, column] = sum over steps of a(row, step) * b(column, step)
//
// Each direction decides what rows, columns and steps are. It describes each of them by a Coord, and the sum of two
// Coords addresses an element of a or b.
//
//   a block   computes Tile::rows x Tile::columns accumulators and runs over all their steps, Tile::steps an iteration
//   a warp    loads neighboring elements of memory into registers during the previous iteration's products. Then it
//             stores them as accumulators, a[step][row], to the other slot of shared memory (Access says how)
//   a thread  owns rows_each x columns_each accumulators. Per step it reads rows_each + columns_each numbers from
//             shared memory, 16 bytes at a time, for rows_each * columns_each multiply-adds. 8 x 8 is the size at which
//             arithmetic is the limit (estimated), and 64 accumulators still leave room below 128 registers
//
// The accumulators pass through shared memory once more, as [row][column]. ReLU masks, pooling windows and stores to
// either memory format then find the whole tile and write along the format's inner axis.
#pragma once

#include <cmath>
#include <cstdint>

#include "conv2d_geometry.cuh"
#include "dtypes.h"

namespace fastconv::cuda {

// Elements per access where memory allows vectors: 16 bytes of accumulators.
template <class T>
constexpr int vector_size = 16 / int(sizeof(Accumulator<T>));

template <class Accumulator_, int rows_, int columns_, int steps_, int rows_each_, int columns_each_>
struct Tile {
    using Acc = Accumulator_;
    static constexpr int rows = rows_, columns = columns_, steps = steps_;
    static constexpr int rows_each = rows_each_, columns_each = columns_each_;
    static constexpr int threads_along_columns = columns / columns_each, threads_along_rows = rows / rows_each;
    static constexpr int threads = threads_along_columns * threads_along_rows;
    // Minimum blocks per multiprocessor; fewer_blocks for kernels that keep more than accumulators. A double takes two
    // registers.
    static constexpr int blocks = 512 / threads, fewer_blocks = (sizeof(Acc) == 8 ? 384 : 512) / threads;
    static constexpr bool tensor_cores = false;
    // A thread's rows come in chunks of 16 bytes. Its next chunk follows those of all other threads. So do its columns.
    static constexpr int vector = 16 / int(sizeof(Acc));
    static constexpr int row_chunk = rows_each < vector ? rows_each : vector;
    static constexpr int column_chunk = columns_each < vector ? columns_each : vector;
    // 16 bytes of padding (one chunk for the sums) keep loads and stores free of bank conflicts. Where several rows of
    // sums share the banks, the padding places the rows of one warp's store, row_chunk apart, side by side.
    static constexpr int a_stride = rows + vector, b_stride = columns + vector;
    static constexpr int sum_stride = columns + (columns < 32 ? columns / row_chunk : column_chunk);
    static constexpr int slot_size = steps * (a_stride + b_stride);
    static constexpr int buffer = 2 * slot_size > rows* sum_stride ? 2 * slot_size : rows * sum_stride;

    FASTCONV_DEVICE static int sum_place(int row, int column) { return row * sum_stride + column; }
};

// A Coord is one part of an operand element's address. The address is the sum of a row's (or column's) Coord and a
// step's. The View that reads the Coord gives its fields their meaning. A negative h marks an element that counts as
// zero.
struct Coord {
    int64_t offset = 0;
    int h = 0, w = 0, n = 0, k = 0;
    FASTCONV_DEVICE Coord operator+(const Coord& o) const {
        return {offset + o.offset, h + o.h, w + o.w, n + o.n, k + o.k};
    }
};
constexpr int outside = -(1 << 30);  // an h that stays negative whatever coordinate is added
FASTCONV_DEVICE Coord no_coord() { return {0, outside, 0, 0, 0}; }

// Coords is an array of Coord in shared memory, stored field by field. Part i of `vector` parts holds the entries with
// index % vector == i. Threads read either one part in order, for vectors, or all entries in order. The distance
// between parts keeps the latter free of bank conflicts, too: 16 lanes read 8 bytes each, 16 / vector of them in each
// part.
template <int vector>
class Coords {
public:
    FASTCONV_HOST_DEVICE Coords(simt::Shared& shared, int count)
        : distance_(count / vector + 16 / vector % 16),
          offset_(shared.take<int64_t>(vector * distance_)),
          hw_(shared.take<int>(2 * vector * distance_)),
          nk_(shared.take<int>(2 * vector * distance_)) {}
    FASTCONV_DEVICE void put(int i, const Coord& coord) const {
        const int at = place(i);
        offset_[at] = coord.offset;
        simt::store(hw_ + 2 * at, simt::Pack<int, 2>{{coord.h, coord.w}});
        simt::store(nk_ + 2 * at, simt::Pack<int, 2>{{coord.n, coord.k}});
    }
    FASTCONV_DEVICE Coord get(int i) const {
        const int at = place(i);
        const auto hw = simt::load<2>(hw_ + 2 * at), nk = simt::load<2>(nk_ + 2 * at);
        return {offset_[at], hw[0], hw[1], nk[0], nk[1]};
    }

private:
    FASTCONV_DEVICE int place(int i) const { return i % vector * distance_ + i / vector; }

    int distance_;
    int64_t* offset_;
    int *hw_, *nk_;
};

// A block's shared memory: the coordinates of two iterations' steps, and two slots of operands.
template <class Tile>
struct GemmMemory {
    using Acc = typename Tile::Acc;
    Coords<Tile::vector> rows, columns;
    Coords<1> a_steps, b_steps;
    Acc* buffer;  // two slots of operands, afterwards the sums
    FASTCONV_HOST_DEVICE explicit GemmMemory(simt::Shared& shared)
        : rows(shared, Tile::rows),
          columns(shared, Tile::columns),
          a_steps(shared, 2 * Tile::steps),
          b_steps(shared, 2 * Tile::steps),
          buffer(shared.take<Acc>(Tile::buffer)) {}
};

// Access says how neighboring lanes read an operand: along its lines (its rows or columns) or along the steps, one
// element each or Tile::vector of them.
enum class Access { lines = 1, steps = 2, line_vectors = 4, step_vectors = 8 };
constexpr int operator|(Access a, Access b) { return int(a) | int(b); }
constexpr int operator|(int a, Access b) { return a | int(b); }

// A Source is an operand: the view that reads it and the access chosen by the launcher. Code exists for the accesses in
// `possible` alone.
template <class View_, int possible_>
struct Source {
    using View = View_;
    static constexpr int possible = possible_;
    FASTCONV_HOST_DEVICE static constexpr bool may(Access access) { return (possible & int(access)) != 0; }
    static constexpr bool transposed = may(Access::line_vectors);  // lines, not steps, are neighbors in memory
    View view;
    Access access;
};

// One iteration's part of an operand, held in a thread's registers on its way from global to shared memory.
template <class Tile, int lines, class Source>
class Operand {
    using Acc = typename Tile::Acc;
    static constexpr int vector = Tile::vector, stride = lines + vector, elements = lines * Tile::steps;
    template <int size>
    static constexpr int count = (elements / size + Tile::threads - 1) / Tile::threads;

public:
    FASTCONV_DEVICE void load(const Source& source, const Coords<Tile::vector>& line_coords,
                              const Coords<1>& step_coords, int first_step) {
        each(source.access, [&](auto, auto size, int i, int line, int step) {
            const auto pack =
                source.view.template get<size.value>(line_coords.get(line) + step_coords.get(first_step + step));
            FASTCONV_UNROLL
            for (int v = 0; v < size.value; ++v) value_[i + v] = pack[v];
        });
    }

    FASTCONV_DEVICE void store(const Source& source, Acc* to) const {
        each(source.access, [&](auto access, auto size, int i, int line, int step) {
            Acc* const first = to + step * stride + line;
            if constexpr (access.value == int(Access::line_vectors)) {
                simt::Pack<Acc, vector> pack;
                FASTCONV_UNROLL
                for (int v = 0; v < vector; ++v) pack[v] = value_[i + v];
                simt::store(first, pack);
            } else {
                FASTCONV_UNROLL
                for (int v = 0; v < size.value; ++v) first[v * stride] = value_[i + v];
            }
        });
    }

private:
    template <int n>
    struct Constant {
        static constexpr int value = n;
    };

    // Calls visit(access, vector size, index of the first value, line, step) for each vector that this thread moves.
    template <class Visit>
    FASTCONV_DEVICE static void each(Access access, const Visit& visit) {
        if (access == Access::lines) each_along<Access::lines>(visit);
        else if (access == Access::steps) each_along<Access::steps>(visit);
        else if (access == Access::line_vectors) each_along<Access::line_vectors>(visit);
        else each_along<Access::step_vectors>(visit);
    }
    template <Access access, class Visit>
    FASTCONV_DEVICE static void each_along(const Visit& visit) {
        if constexpr (Source::may(access)) {
            constexpr bool vectors = access == Access::line_vectors || access == Access::step_vectors;
            constexpr bool along_lines = access == Access::lines || access == Access::line_vectors;
            constexpr int size = vectors ? vector : 1, packs = elements / size;
            constexpr int inner = along_lines ? lines / size : Tile::steps / size;
            FASTCONV_UNROLL
            for (int i = 0; i < count<size>; ++i) {
                const int e = simt::thread() + i * Tile::threads;
                if (packs % Tile::threads && e >= packs) continue;
                const int first = e % inner * size, other = e / inner;
                visit(Constant<int(access)>(), Constant<size>(), i * size, along_lines ? first : other,
                      along_lines ? other : first);
            }
        }
    }

    Acc value_[count<1> > count<vector>* vector ? count<1> : count<vector> * vector];
};

// A thread's accumulators and their places in the tile.
template <class Tile>
struct Sums {
    using Acc = typename Tile::Acc;
    Acc value[Tile::rows_each][Tile::columns_each];

    FASTCONV_DEVICE void clear() {
        FASTCONV_UNROLL
        for (int i = 0; i < Tile::rows_each; ++i) {
            FASTCONV_UNROLL
            for (int j = 0; j < Tile::columns_each; ++j) value[i][j] = Acc(0);
        }
    }
    FASTCONV_DEVICE static int row(int i) {
        constexpr int chunk = Tile::row_chunk;
        return i / chunk * (Tile::threads_along_rows * chunk) + simt::thread() / Tile::threads_along_columns * chunk +
               i % chunk;
    }
    FASTCONV_DEVICE static int column(int j) {
        constexpr int chunk = Tile::column_chunk;
        return j / chunk * (Tile::threads_along_columns * chunk) +
               simt::thread() % Tile::threads_along_columns * chunk + j % chunk;
    }

    // One main-loop iteration; `a` and `b` lie in shared memory.
    FASTCONV_DEVICE void add_products(const Acc* a, const Acc* b) {
        FASTCONV_UNROLL
        for (int step = 0; step < Tile::steps; ++step) {
            Acc left[Tile::rows_each], right[Tile::columns_each];
            read<Tile::rows_each, Tile::row_chunk>(left, a + step * Tile::a_stride, [](int i) { return row(i); });
            read<Tile::columns_each, Tile::column_chunk>(right, b + step * Tile::b_stride,
                                                         [](int j) { return column(j); });
            FASTCONV_UNROLL
            for (int i = 0; i < Tile::rows_each; ++i) {
                FASTCONV_UNROLL
                for (int j = 0; j < Tile::columns_each; ++j) value[i][j] += left[i] * right[j];
            }
        }
    }

    // Stores value + bias[column] to shared memory, [row][column].
    template <class Bias>
    FASTCONV_DEVICE void store(Acc* to, const Bias& bias) const {
        FASTCONV_UNROLL
        for (int j = 0; j < Tile::columns_each; j += Tile::column_chunk) {
            Acc add[Tile::column_chunk];
            FASTCONV_UNROLL
            for (int v = 0; v < Tile::column_chunk; ++v) add[v] = bias(column(j + v));
            FASTCONV_UNROLL
            for (int i = 0; i < Tile::rows_each; ++i) {
                simt::Pack<Acc, Tile::column_chunk> pack;
                FASTCONV_UNROLL
                for (int v = 0; v < Tile::column_chunk; ++v) pack[v] = value[i][j + v] + add[v];
                simt::store(to + Tile::sum_place(row(i), column(j)), pack);
            }
        }
    }

private:
    template <int count, int chunk, class Place>
    FASTCONV_DEVICE static void read(Acc (&to)[count], const Acc* from, const Place& place) {
        FASTCONV_UNROLL
        for (int i = 0; i < count; i += chunk) {
            const auto pack = simt::load<chunk>(from + place(i));
            FASTCONV_UNROLL
            for (int v = 0; v < chunk; ++v) to[i + v] = pack[v];
        }
    }
};

// The main loop over steps first_step to last_step. `step_coords(i, a_coord, b_coord)` describes step i. An iteration
// multiplies one slot, loads the next one and describes the steps of the one after that. The caller has put the
// coordinates of rows and columns into shared memory; gemm() begins with a barrier. All of `memory` is free on return.
template <class Tile, class A, class B, class StepCoords>
FASTCONV_DEVICE void gemm(Sums<Tile>& sums, const GemmMemory<Tile>& memory, const A& a, const B& b, int first_step,
                          int last_step, const StepCoords& step_coords) {
    using Acc = typename Tile::Acc;
    constexpr int steps = Tile::steps;
    static_assert(steps <= Tile::threads);
    const auto describe = [&](int i, int step) {
        Coord a_coord = no_coord(), b_coord = no_coord();
        if (step < last_step) step_coords(step, a_coord, b_coord);
        memory.a_steps.put(i, a_coord);
        memory.b_steps.put(i, b_coord);
    };
    sums.clear();
    int slot = 0;  // the slot that is described; the other one is multiplied
    if (simt::thread() < steps) describe(simt::thread(), first_step + simt::thread());
    simt::sync();
    for (int step = first_step - steps; step < last_step;
         step += steps) {  // step: of the products; the first iteration has none
        Operand<Tile, Tile::rows, A> next_a;
        Operand<Tile, Tile::columns, B> next_b;
        const bool more = step + steps < last_step;
        if (more) {
            next_a.load(a, memory.rows, memory.a_steps, slot * steps);
            next_b.load(b, memory.columns, memory.b_steps, slot * steps);
            if (simt::thread() < steps)
                describe((slot ^ 1) * steps + simt::thread(), step + 2 * steps + simt::thread());
        }
        if (step >= first_step) {
            const Acc* const from = memory.buffer + (slot ^ 1) * Tile::slot_size;
            sums.add_products(from, from + steps * Tile::a_stride);
        }
        if (more) {
            Acc* const to = memory.buffer + slot * Tile::slot_size;
            next_a.store(a, to);
            next_b.store(b, to + steps * Tile::a_stride);
        }
        simt::sync();
        slot ^= 1;
    }
}

// Writes the tile in shared memory to `to`. Element (row, column) goes to the sum of their coordinates' offsets, which
// the caller has put into `memory`. Lanes run along the inner axis of `to`, rows or columns. `vectors`: chunks of
// columns are neighbors in `to` and aligned. finish(sum) gives the value to write.
template <class Tile, class T, class Finish>
FASTCONV_DEVICE void write_tile(T* to, const GemmMemory<Tile>& memory, bool along_columns, bool vectors,
                                const Finish& finish) {
    constexpr int chunk = Tile::column_chunk, chunks = Tile::columns / chunk;
    for (int i = simt::thread(); i < Tile::rows * chunks; i += Tile::threads) {
        const int row = along_columns ? i / chunks : i % Tile::rows;
        const int column = (along_columns ? i % chunks : i / Tile::rows) * chunk;
        const Coord row_coord = memory.rows.get(row);
        if (row_coord.h < 0) continue;
        const auto sums = simt::load<chunk>(memory.buffer + Tile::sum_place(row, column));
        simt::Pack<T, chunk> pack;
        FASTCONV_UNROLL
        for (int v = 0; v < chunk; ++v) pack[v] = finish(sums[v]);
        if (vectors) {
            const Coord coord = memory.columns.get(column) + row_coord;
            if (coord.h >= 0) simt::store(to + coord.offset, pack);
        } else {
            FASTCONV_UNROLL
            for (int v = 0; v < chunk; ++v) {
                const Coord coord = memory.columns.get(column + v) + row_coord;
                if (coord.h >= 0) to[coord.offset] = pack[v];
            }
        }
    }
}

}  // namespace fastconv::cuda
