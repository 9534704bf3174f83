// The matrix product of conv2d_gemm.cuh on tensor cores, with accumulators in float:
//
//   a block   computes Tile::rows x Tile::columns accumulators, Tile::steps an iteration. Tile::stages of operands lie
//             in shared memory: one stage is multiplied while the following ones are being copied
//   a warp    owns warp_rows x warp_columns accumulators. For two chunks of steps it reads warp_rows + warp_columns
//             lines by ldmatrix and computes warp_rows * warp_columns * 2 chunks of products. A 64 x 64 warp tile thus
//             needs a quarter of shared memory's bandwidth (estimated)
//   a thread  copies chunks of 16 bytes straight to shared memory where they lie together in global memory. A chunk is
//             neighboring steps of one line (a row or a column). Otherwise it reads single elements (Access)
//
// A thread copies the same lines in every iteration and keeps their coordinates in registers if they are few. It
// advances through the reduction as an odometer over (c, r, s), with carries, so the main loop needs no integer
// division (StepCounter).
//
// An operand in shared memory is [line][step]. It is [step][line], transposed, where its lines are neighbors in global
// memory. A chunk then holds neighboring lines, and ldmatrix transposes 16-bit elements; lanes read 32-bit elements one
// by one. Chunks are swizzled within a row (place()): eight neighboring rows of an ldmatrix lie in different banks, and
// so do eight neighboring chunks of a copy.
#pragma once

#include "conv2d_gemm.cuh"
#include "pipeline.cuh"

namespace fastconv::cuda {

// Mma is a type's product of 16 rows x 8 columns x 32 bytes of steps, and the rounding that its operands need.
template <class T>
struct Mma;
template <>
struct Mma<float> {
    // Rounds to the nearest TF32. Tensor cores would truncate.
    FASTCONV_DEVICE static void round(uint32_t (&values)[4]) {
        FASTCONV_UNROLL
        for (int i = 0; i < 4; ++i) values[i] = simt::to_tf32(simt::bits_float(values[i]));
    }
    FASTCONV_DEVICE static void add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        simt::mma_tf32(d, a, b);
    }
};
template <>
struct Mma<simt::half> {
    FASTCONV_DEVICE static void round(const uint32_t (&)[4]) {}
    FASTCONV_DEVICE static void add(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
        simt::mma_fp16(d, a, b);
    }
};
template <>
struct Mma<simt::bfloat16> {
    FASTCONV_DEVICE static void round(const uint32_t (&)[4]) {}
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
    // Blocks per multiprocessor, as registers allow: the accumulators plus 96, or plus 128 in kernels that keep more
    // (both estimated).
    static constexpr int sums = warp_rows * warp_columns / 32;
    static constexpr int blocks = 65536 / threads / (sums + 96), fewer_blocks = 65536 / threads / (sums + 128);
    static constexpr int vector = 16 / int(sizeof(T)), chunks = steps / vector;
    static constexpr int stage = (rows + columns) * steps;
    // The sums are stored as [row][column]. A thread stores two at a time, to rows 8 banks apart. write_tile() reads
    // four at a time, from up to eight neighboring rows. Exchanging pairs of chunks in every other four rows frees both
    // of conflicts.
    static constexpr int column_chunk = 4, sum_stride = columns + 8;
    static constexpr int stage_words = stages * stage * int(sizeof(T)) / 4;
    static constexpr int buffer = stage_words > rows* sum_stride ? stage_words : rows * sum_stride;

    // Steps from one chunk of a thread to its next, in a transposed operand of `lines` lines.
    FASTCONV_HOST_DEVICE static constexpr int chunk_stride(int lines) { return threads / (lines / vector); }
    FASTCONV_DEVICE static int sum_place(int row, int column) { return row * sum_stride + (column ^ (row & 4)); }
    // The swizzled place of an operand's element. Rows have `size` elements, which are steps, or lines if transposed.
    template <bool transposed, int size>
    FASTCONV_DEVICE static int place(int row, int element) {
        constexpr int in_row = size / vector, exchanged = in_row < 8 ? in_row : 8;
        static_assert(in_row >= 4 && in_row % exchanged == 0);
        int with = row / (8 / exchanged) % exchanged;
        if constexpr (transposed && sizeof(T) == 4) {  // lanes read 4 rows' pairs of chunks at once
            static_assert(exchanged == 8);
            with = row % 4 * 2;
        }
        return row * size + (element / vector ^ with) * vector + element % vector;
    }
};

// Returns a + times * b. Beyond the last step it may wrap around; that result is not used.
FASTCONV_HOST_DEVICE Coord wrapped(const Coord& a, const Coord& b, int times) {
    const auto add = [times](int c, int d) { return int(unsigned(c) + unsigned(d) * unsigned(times)); };
    return {a.offset + b.offset * times, add(a.h, b.h), add(a.w, b.w), add(a.n, b.n), add(a.k, b.k)};
}

// Axis is one axis of the odometer: its extent, and the offset of one step along it.
struct Axis {
    int extent;  // an extent of 0, when there are no steps, counts as 1
    Coord unit;
};

// StepCounter is an odometer over an operand's steps: three axes; the first changes fastest.
struct StepCounter {
    struct Stride {  // some steps: what they add to the indices, and to the coordinate if no index overflows
        int index[3];
        Coord coord;
    };
    int extent[3];
    Coord unit[3], carry[2];  // carry: added to the coordinate when an index overflows
    Stride iteration;         // from one main-loop iteration to the next
    Stride chunk_stride;      // from one chunk of a thread to its next, where operands are transposed

    StepCounter() = default;
    FASTCONV_HOST_DEVICE StepCounter(const Axis& inner, const Axis& middle, const Axis& outer, int steps_per_iteration,
                                     int steps_per_chunk_stride)
        : unit{inner.unit, middle.unit, outer.unit} {
        const Axis* const axes[] = {&inner, &middle, &outer};
        for (int i = 0; i < 3; ++i) extent[i] = axes[i]->extent > 1 ? axes[i]->extent : 1;
        for (int i = 0; i < 2; ++i) carry[i] = wrapped(unit[i + 1], unit[i], -extent[i]);
        iteration = stride(steps_per_iteration), chunk_stride = stride(steps_per_chunk_stride);
    }
    FASTCONV_HOST_DEVICE Stride stride(int steps) const {
        Stride s{{steps % extent[0], steps / extent[0] % extent[1], steps / extent[0] / extent[1]}, Coord()};
        for (int i = 0; i < 3; ++i) s.coord = wrapped(s.coord, unit[i], s.index[i]);
        return s;
    }
};

// StepCursor is a position on a StepCounter.
class StepCursor {
public:
    FASTCONV_DEVICE StepCursor(const StepCounter& counter, int step) : at_(counter.stride(step)) {}
    FASTCONV_DEVICE void next_step(const StepCounter& counter) { add(counter, 1, 0, 0, counter.unit[0]); }
    FASTCONV_DEVICE void next(const StepCounter& counter, const StepCounter::Stride& stride) {
        add(counter, stride.index[0], stride.index[1], stride.index[2], stride.coord);
    }
    FASTCONV_DEVICE Coord coord(const StepCounter& counter) const {
        Coord coord = at_.coord;
        if (at_.index[2] >= counter.extent[2]) coord = no_coord();
        return coord;
    }

private:
    FASTCONV_DEVICE void add(const StepCounter& counter, int inner, int middle, int outer, const Coord& coord) {
        at_.coord = wrapped(at_.coord, coord, 1);
        at_.index[0] += inner, at_.index[1] += middle, at_.index[2] += outer;
        FASTCONV_UNROLL
        for (int i = 0; i < 2; ++i) {
            if (at_.index[i] < counter.extent[i]) continue;
            at_.index[i] -= counter.extent[i];
            ++at_.index[i + 1];
            at_.coord = wrapped(at_.coord, counter.carry[i], 1);
        }
    }

    StepCounter::Stride at_;
};

// A block's shared memory: stages of both operands, afterwards the sums.
template <class T, int... sizes>
struct GemmMemory<MmaTile<T, sizes...>> {
    using Tile = MmaTile<T, sizes...>;
    Coords<Tile::column_chunk> rows, columns;
    float* buffer;
    FASTCONV_HOST_DEVICE explicit GemmMemory(simt::Shared& shared)
        : rows(shared, Tile::rows), columns(shared, Tile::columns), buffer(shared.take<float>(Tile::buffer)) {}
    FASTCONV_DEVICE T* stage(int i) const { return reinterpret_cast<T*>(buffer) + i * Tile::stage; }
};

// MmaOperand copies a thread's part of one operand in the way that its Source allows.
template <class Tile, int lines, class Source>
class MmaOperand {
    using T = typename Tile::T;
    using LineCoords = Coords<Tile::column_chunk>;
    static constexpr bool transposed = Source::transposed;
    static constexpr int vector = Tile::vector, chunks = transposed ? lines / vector : Tile::chunks;
    static constexpr int each = lines * Tile::chunks / Tile::threads;  // chunks per thread
    static constexpr int apart =
        Tile::threads / chunks;  // lines from one chunk of a thread to its next; steps if transposed
    static constexpr int lines_apart =
        Tile::threads / Tile::steps;  // lines from one element of a thread to its next, of the same step
    static_assert(lines * Tile::chunks % Tile::threads == 0 && Tile::threads % lines == 0);
    static_assert((lines & (lines - 1)) == 0 && (chunks & (chunks - 1)) == 0 && (Tile::steps & (Tile::steps - 1)) == 0);

    // Copies of vectors, or of single elements with neighboring lanes along the lines or along the steps.
    static constexpr bool vectors = transposed || Source::may(Access::step_vectors);
    static constexpr bool along_steps = Source::may(Access::steps) && !transposed;
    static constexpr bool along_lines = Source::may(Access::lines) || (Source::may(Access::steps) && transposed);

public:
    FASTCONV_DEVICE MmaOperand(const Source& source, const StepCounter& counter, const LineCoords& coords,
                               int first_step)
        : access_(source.access), cursor_(counter, first_step + first(source.access).step) {
        const int line = first(access_).line;
        FASTCONV_UNROLL
        for (int i = 0; i < each; ++i)
            if (i == 0 || (vectors && !transposed)) coord_[i] = coords.get((line + i * apart) % lines);
    }

    // Copies one iteration's chunks to a stage.
    FASTCONV_DEVICE void copy(const Source& source, const StepCounter& counter, const LineCoords& coords, T* to) {
        const Place at = first(access_);
        if constexpr (vectors) {
            if (!(along_lines || along_steps) || by_vectors(access_)) return copy_vectors(source, counter, at, to);
        }
        if constexpr (along_steps) {
            if (!along_lines || access_ == Access::steps) copy_along_steps(source, counter, coords, at, to);
        }
        if constexpr (along_lines) {
            if (!along_steps || access_ == Access::lines) copy_along_lines(source, counter, at, to);
        }
        cursor_.next(counter, counter.iteration);
    }

private:
    struct Place {
        int line, step;
    };

    FASTCONV_DEVICE static bool by_vectors(Access access) {
        return access == Access::step_vectors || access == Access::line_vectors;
    }
    // A thread's first element. Written with shifts: nvcc merges two divisions by constants into one by a variable.
    FASTCONV_DEVICE static Place first(Access access) {
        const int i = simt::thread();
        if (vectors && (!(along_lines || along_steps) || by_vectors(access))) {
            const int in_row = i & (chunks - 1), row = i >> log2(chunks);
            return transposed ? Place{in_row * vector, row} : Place{row, in_row * vector};
        }
        if (along_steps && (!along_lines || access == Access::steps))
            return {i >> log2(Tile::steps), i & (Tile::steps - 1)};
        return {i & (lines - 1), (i >> log2(lines)) * each * vector};
    }
    FASTCONV_HOST_DEVICE static constexpr int log2(int n) { return n == 1 ? 0 : 1 + log2(n / 2); }
    FASTCONV_DEVICE static int place(int line, int step) {
        if constexpr (transposed) return Tile::template place<true, lines>(step, line);
        else return Tile::template place<false, Tile::steps>(line, step);
    }

    FASTCONV_DEVICE void copy_vectors(const Source& source, const StepCounter& counter, const Place& at, T* to) {
        if constexpr (transposed) {
            FASTCONV_UNROLL
            for (int i = 0; i < each; ++i) {
                copy_chunk(source, coord_[0] + cursor_.coord(counter), to + place(at.line, at.step + i * apart));
                cursor_.next(counter, counter.chunk_stride);
            }
        } else {
            const Coord step = cursor_.coord(counter);
            FASTCONV_UNROLL
            for (int i = 0; i < each; ++i)
                copy_chunk(source, coord_[i] + step, to + place(at.line + i * apart, at.step));
            cursor_.next(counter, counter.iteration);
        }
    }
    FASTCONV_DEVICE static void copy_chunk(const Source& source, const Coord& coord, T* to) {
        if (source.view.copied(coord)) {
            simt::copy_async<vector>(to, source.view.at(coord), source.view.inside(coord));
        } else {
            const auto values = source.view.template get<vector>(coord);
            simt::Pack<T, vector> pack;
            FASTCONV_UNROLL
            for (int v = 0; v < vector; ++v) pack[v] = T(values[v]);
            simt::store(to, pack);
        }
    }
    // Copies single elements of one line.
    FASTCONV_DEVICE void copy_along_lines(const Source& source, const StepCounter& counter, const Place& at,
                                          T* to) const {
        StepCursor cursor = cursor_;
        FASTCONV_NO_UNROLL
        for (int step = at.step; step < at.step + each * vector; step += vector) {
            simt::Pack<T, vector> pack;
            FASTCONV_UNROLL
            for (int v = 0; v < vector; ++v) {
                pack[v] = T(source.view.template get<1>(coord_[0] + cursor.coord(counter))[0]);
                cursor.next_step(counter);
            }
            if constexpr (transposed) {
                FASTCONV_UNROLL
                for (int v = 0; v < vector; ++v) to[place(at.line, step + v)] = pack[v];
            } else {
                simt::store(to + place(at.line, step), pack);
            }
        }
    }
    // Copies single elements of one step. The coordinates of its many lines do not fit into registers.
    FASTCONV_DEVICE void copy_along_steps(const Source& source, const StepCounter& counter, const LineCoords& coords,
                                          const Place& at, T* to) const {
        constexpr int group = 4;  // loads in flight
        static_assert(lines % (group * lines_apart) == 0);
        const Coord step = cursor_.coord(counter);
        FASTCONV_NO_UNROLL
        for (int line = at.line; line < lines; line += group * lines_apart) {
            T values[group];
            FASTCONV_UNROLL
            for (int i = 0; i < group; ++i)
                values[i] = T(source.view.template get<1>(coords.get(line + i * lines_apart) + step)[0]);
            FASTCONV_UNROLL
            for (int i = 0; i < group; ++i) to[place(line + i * lines_apart, at.step)] = values[i];
        }
    }

    Access access_;
    StepCursor cursor_;
    Coord coord_[each];  // of the thread's lines
};

// A thread's accumulators as tensor cores distribute them, and their places in the tile.
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

    // One main-loop iteration: the product of a stage's rows and columns.
    template <bool rows_transposed, bool columns_transposed>
    FASTCONV_DEVICE void add_products(const T* rows, const T* columns) {
        FASTCONV_UNROLL
        for (int step = 0; step < Tile::steps; step += 2 * Tile::vector) {
            uint32_t a[high][4], b[wide / 2][4];
            FASTCONV_UNROLL
            for (int m = 0; m < high; ++m)
                load<rows_transposed, Tile::rows, true>(a[m], rows, first_row() + m * 16, step);
            FASTCONV_UNROLL
            for (int n = 0; n < wide / 2; ++n)
                load<columns_transposed, Tile::columns, false>(b[n], columns, first_column() + n * 16, step);
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

    // Loads the fragment of one operand that add_products() multiplies at once, rounded.
    template <bool transposed, int lines, bool lines_first>
    FASTCONV_DEVICE static void load(uint32_t (&to)[4], const T* from, int line, int step) {
        read<transposed, lines, lines_first>(to, from, line, step);
        Mma<T>::round(to);
    }

    // Reads four matrices of 8 lines x one chunk of steps: 16 lines x two chunks, ordered along lines or along steps
    // first. A lane gets 4 bytes of steps of line lane / 4 from each.
    template <bool transposed, int lines, bool lines_first>
    FASTCONV_DEVICE static void read(uint32_t (&to)[4], const T* from, int line, int step) {
        const auto line_of = [=](int matrix) { return line + (lines_first ? matrix % 2 : matrix / 2) * 8; };
        const auto step_of = [=](int matrix) { return step + (lines_first ? matrix / 2 : matrix % 2) * Tile::vector; };
        const int matrix = simt::lane() / 8, in_matrix = simt::lane() % 8;
        if constexpr (!transposed) {
            simt::ldmatrix_x4(
                to, from + Tile::template place<false, Tile::steps>(line_of(matrix) + in_matrix, step_of(matrix)));
        } else if constexpr (sizeof(T) == 2) {
            simt::ldmatrix_x4_trans(
                to, from + Tile::template place<true, lines>(step_of(matrix) + in_matrix, line_of(matrix)));
        } else {  // ldmatrix transposes 16-bit elements only
            FASTCONV_UNROLL
            for (int i = 0; i < 4; ++i)
                to[i] = simt::float_bits(from[Tile::template place<true, lines>(step_of(i) + simt::lane() % 4,
                                                                                line_of(i) + simt::lane() / 4)]);
        }
    }

    // Stores value + bias[column] to shared memory, [row][column].
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

// The main loop over steps first_step to last_step. last_step is the counters' end or whole iterations away from
// first_step. The caller has put the coordinates of rows and columns into shared memory; gemm() begins with a barrier.
// All of `memory` is free on return.
template <class T, int... sizes, class A, class B>
FASTCONV_DEVICE void gemm(Sums<MmaTile<T, sizes...>>& sums, const GemmMemory<MmaTile<T, sizes...>>& memory, const A& a,
                          const StepCounter& a_counter, const B& b, const StepCounter& b_counter, int first_step,
                          int last_step) {
    using Tile = MmaTile<T, sizes...>;
    sums.clear();
    simt::sync();
    MmaOperand<Tile, Tile::rows, A> next_a(a, a_counter, memory.rows, first_step);
    MmaOperand<Tile, Tile::columns, B> next_b(b, b_counter, memory.columns, first_step);
    const auto copy = [&](int stage) {
        next_a.copy(a, a_counter, memory.rows, memory.stage(stage));
        next_b.copy(b, b_counter, memory.columns, memory.stage(stage) + Tile::rows * Tile::steps);
    };
    const auto multiply = [&](int stage) {
        const T* const rows = memory.stage(stage);
        sums.template add_products<A::transposed, B::transposed>(rows, rows + Tile::rows * Tile::steps);
    };
    pipelined_loop<Tile::stages>(ceil_div(last_step - first_step, Tile::steps), copy, multiply);
}

}  // namespace fastconv::cuda
