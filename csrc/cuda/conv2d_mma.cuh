// conv2d_gemm.cuh's product on tensor cores, summed in float:
//
//   a block   computes Tile::rows x Tile::columns sums and runs over all its steps, Tile::steps at a time, of which
//             Tile::stages lie in shared memory: one is multiplied while the next ones are still being copied
//   a warp    owns warp_rows x warp_columns sums; two chunks of steps at a time it reads warp_rows + warp_columns lines
//             by ldmatrix for warp_rows * warp_columns * 2 chunks' products, so that 64 x 64 needs a quarter of what
//             shared memory can deliver to tensor cores
//   a thread  copies 16 bytes at a time (a chunk: neighbouring steps of one row or column, a line) straight to shared
//             memory where they lie together in global memory; otherwise it reads the elements by themselves, its
//             neighbours those of neighbouring lines or steps (Access)
//
// A thread moves the same lines in every iteration and keeps their coordinates in registers, if they are few. Its steps
// are counted in three axes (StepCounter), so that the main loop has carries where dividing would give the tap.
//
// In shared memory an operand is [line][step], or [step][line] where its lines lie together in global memory; a chunk
// then is of neighbouring lines, and ldmatrix transposes, or lanes read their elements by themselves where these have
// 32 bits. Chunks are exchanged within a row (place()), so that those of eight neighbouring rows, which an ldmatrix
// reads, lie in different banks, and so do eight neighbouring ones of a copy.
#pragma once

#include "conv2d_gemm.cuh"

namespace fastconv::cuda {

// A type's product of 16 rows x 8 columns x 32 bytes of steps, and what its operands need before it.
template <class T>
struct Mma;
template <>
struct Mma<float> {
    // The nearest TF32; tensor cores by themselves cut off what it does not have.
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

    // Steps between the chunks that a thread copies of so many lines that lie together.
    FASTCONV_HOST_DEVICE static constexpr int chunk_stride(int lines) { return threads / (lines / vector); }
    FASTCONV_DEVICE static int sum_place(int row, int column) { return row * sum_stride + (column ^ (row & 4)); }
    // Where an element of an operand stands that has `size` elements in a row, which are steps or (transposed) lines.
    template <bool transposed, int size>
    FASTCONV_DEVICE static int place(int row, int element) {
        constexpr int in_row = size / vector, exchanged = in_row < 8 ? in_row : 8;
        static_assert(in_row >= 4 && in_row % exchanged == 0);
        int with = row / (8 / exchanged) % exchanged;
        if constexpr (transposed && sizeof(T) == 4) {  // 4 rows' pairs of chunks are read at once
            static_assert(exchanged == 8);
            with = row % 4 * 2;
        }
        return row * size + (element / vector ^ with) * vector + element % vector;
    }
};

template <class T>
struct MmaTiles {
    static constexpr int steps = 64 / int(sizeof(T));
    // With 64 x 64 a thread's sums and operands of TF32 are more than 255 registers.
    using wide = MmaTile<T, 128, 128, steps, 4, 64, sizeof(T) == 4 ? 32 : 64>;
    using middle = MmaTile<T, 128, 64, steps, 4, 64, 32>;
    using small = MmaTile<T, 64, 64, steps, 4, 32, 32>;  // for products that are too small to fill a GPU otherwise
    using narrow = MmaTile<T, 128, 32, steps, 4, 32, 32>;
};

// Coord arithmetic that may wrap around: beyond the last step, where nobody looks at the result.
FASTCONV_HOST_DEVICE Coord wrapped(const Coord& a, const Coord& b, int times) {
    const auto add = [times](int c, int d) { return int(unsigned(c) + unsigned(d) * unsigned(times)); };
    return {a.offset + b.offset * times, add(a.h, b.h), add(a.w, b.w), add(a.n, b.n), add(a.k, b.k)};
}

// One of the axes by which steps are counted: how many values it has, and where one more of it leads.
struct Axis {
    int extent;  // counts as 1 if it is 0, when there are no steps
    Coord unit;
};

// An operand's steps in the order in which they are counted, as axes of which the first changes fastest.
struct StepCounter {
    struct Stride {  // some steps on: what it adds to the indices, and to the coordinate if no index overflows
        int index[3];
        Coord coord;
    };
    int extent[3];
    Coord unit[3], carry[2];  // carry: what it adds if one does
    Stride iteration;         // of the main loop
    Stride chunk_stride;      // of a thread's chunks across the steps

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

// A place among the steps of a StepCounter.
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

// A block's shared memory: the operands' stages, afterwards the sums.
template <class T, int... sizes>
struct GemmMemory<MmaTile<T, sizes...>> {
    using Tile = MmaTile<T, sizes...>;
    Coords<Tile::column_chunk> rows, columns;
    float* buffer;
    FASTCONV_HOST_DEVICE explicit GemmMemory(simt::Shared& shared)
        : rows(shared, Tile::rows), columns(shared, Tile::columns), buffer(shared.take<float>(Tile::buffer)) {}
    FASTCONV_DEVICE T* stage(int i) const { return reinterpret_cast<T*>(buffer) + i * Tile::stage; }
};

// What a thread copies of one operand, in a way that its Source allows.
template <class Tile, int lines, class Source>
class MmaOperand {
    using T = typename Tile::T;
    using LineCoords = Coords<Tile::column_chunk>;
    static constexpr bool transposed = Source::transposed;
    static constexpr int vector = Tile::vector, chunks = transposed ? lines / vector : Tile::chunks;
    static constexpr int each = lines * Tile::chunks / Tile::threads;  // chunks of a thread
    static constexpr int apart = Tile::threads / chunks;               // their lines; transposed, their steps
    static constexpr int lines_apart = Tile::threads / Tile::steps;    // of a thread's elements of one step
    static_assert(lines * Tile::chunks % Tile::threads == 0 && Tile::threads % lines == 0);
    static_assert((lines & (lines - 1)) == 0 && (chunks & (chunks - 1)) == 0 && (Tile::steps & (Tile::steps - 1)) == 0);

    // Vectors; or elements, with neighbouring lanes along the lines or the steps.
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

    // One iteration's, to a stage.
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
    // A thread's first element. By shifts: nvcc would make two divisions by constants one by a variable.
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
    // Chunks of one line.
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
    // Elements of one step; the lines' coordinates do not fit into registers.
    FASTCONV_DEVICE void copy_along_steps(const Source& source, const StepCounter& counter, const LineCoords& coords,
                                          const Place& at, T* to) const {
        constexpr int group = 4;  // are on their way at once
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

    // One iteration of the main loop: a stage's rows and columns.
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

    // What add_products() multiplies of an operand at a time, rounded.
    template <bool transposed, int lines, bool lines_first>
    FASTCONV_DEVICE static void load(uint32_t (&to)[4], const T* from, int line, int step) {
        read<transposed, lines, lines_first>(to, from, line, step);
        Mma<T>::round(to);
    }

    // Four matrices of 8 lines and a chunk of steps: 16 lines, two chunks; first along the lines or along the steps.
    // Of each, a lane gets 4 bytes of steps of line lane / 4.
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
        } else {  // ldmatrix transposes elements of 16 bits only
            FASTCONV_UNROLL
            for (int i = 0; i < 4; ++i)
                to[i] = simt::float_bits(from[Tile::template place<true, lines>(step_of(i) + simt::lane() % 4,
                                                                                line_of(i) + simt::lane() / 4)]);
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

// The main loop over steps first_step to last_step, which is the end of the counters or whole iterations away. The
// caller has put the coordinates of rows and columns into shared memory; a barrier follows here. After it has returned,
// all of `memory` may be written.
template <class T, int... sizes, class A, class B>
FASTCONV_DEVICE void gemm(Sums<MmaTile<T, sizes...>>& sums, const GemmMemory<MmaTile<T, sizes...>>& memory, const A& a,
                          const StepCounter& a_counter, const B& b, const StepCounter& b_counter, int first_step,
                          int last_step) {
    using Tile = MmaTile<T, sizes...>;
    constexpr int ahead = Tile::stages - 1;
    const int iterations = ceil_div(last_step - first_step, Tile::steps);
    sums.clear();
    simt::sync();
    MmaOperand<Tile, Tile::rows, A> next_a(a, a_counter, memory.rows, first_step);
    MmaOperand<Tile, Tile::columns, B> next_b(b, b_counter, memory.columns, first_step);
    const auto copy = [&](bool wanted, int stage) {
        if (wanted) {
            next_a.copy(a, a_counter, memory.rows, memory.stage(stage));
            next_b.copy(b, b_counter, memory.columns, memory.stage(stage) + Tile::rows * Tile::steps);
        }
        simt::copy_commit();  // without copies too: a iteration is a group
    };
    FASTCONV_NO_UNROLL
    for (int iteration = 0; iteration < ahead; ++iteration) copy(iteration < iterations, iteration);
    int full = 0, free = ahead;  // stages
    FASTCONV_NO_UNROLL
    for (int iteration = 0; iteration < iterations; ++iteration) {
        simt::copy_wait<ahead - 1>();
        simt::sync();  // all have the iteration's copies, and all are done with the stage that the next ones go to
        copy(iteration + ahead < iterations, free);
        sums.template add_products<A::transposed, B::transposed>(memory.stage(full),
                                                                 memory.stage(full) + Tile::rows * Tile::steps);
        full = full == ahead ? 0 : full + 1;
        free = free == ahead ? 0 : free + 1;
    }
    simt::copy_wait<0>();
    simt::sync();
}

}  // namespace fastconv::cuda
