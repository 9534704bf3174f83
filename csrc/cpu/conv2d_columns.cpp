// conv2d forward, with bias and with whatever follows (geometry.h, Epilogue), for few pixels and many weights
// (columns.h): y[pixel][k] is the dot product of a column and a filter, as both lie in memory.
//
// A work item is some filters. A step of it multiplies 3 pixels' columns with 4 filters, vectors along the reduction;
// the lanes are added up at the end of every stretch of the reduction, over which the columns stay in the second-level
// cache and the 4 filters in the first. The epilogue then takes whole images of the item's filters.
#include "columns.h"
#include "conv2d_epilogue.h"
#include "isa_kernels.h"
#include "micro_kernel.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t stretch_bytes = 3 << 10;  // of a column: 4 filters' stretches and 3 columns' fit the first level
constexpr int step_pixels = 3, step_filters = 4;
constexpr int64_t most_item_filters = 32, least_items = 16;

template <class T>
struct Plan {
    static constexpr int64_t block = max_vectors * lanes<T>;  // of filters, for the epilogue
    int64_t blocks, item_blocks, items;

    explicit Plan(const Conv2d& conv)
        : blocks(ceil_div(conv.K, block)),
          item_blocks(max(1, min(most_item_filters / block, blocks / least_items))),
          items(ceil_div(blocks, item_blocks)) {}
};

template <class T>
struct Workspace {
    T *columns, *filters;  // filters: of thread 0, where they are not read in place
    T *sums, *row;         // of thread 0: [block][pixel][block's filters]; a pooled row
    size_t per_thread, bytes;

    Workspace(const Conv2dProblem& problem, const Plan<T>& plan, void* start) {
        const Conv2d& conv = problem.conv;
        const int64_t weights = conv.C * conv.R * conv.S, pixels = conv.N * conv.P * conv.Q;
        Carver carver(start);
        columns = carver.take<T>(pixels * weights);
        const size_t shared = carver.used();
        filters = carver.take<T>(step_filters * weights);
        sums = carver.take<T>(plan.item_blocks * plan.block * pixels);
        row = carver.take<T>(problem.pool.Q * plan.block);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
};

// sums[pixel * step + filter] += column[pixel] . w[filter], over `length` elements.
template <class T, int PIXELS>
void add_products(const T* column, int64_t pitch, const T* w, int64_t filter, int64_t length, T* sums, int64_t step) {
    constexpr int W = lanes<T>, F = step_filters;
    Vec<T> acc[PIXELS][F] = {};
    int64_t t = 0;
    for (; t + W <= length; t += W) {
        Vec<T> x[PIXELS];
#pragma GCC unroll 3
        for (int i = 0; i < PIXELS; ++i) x[i] = load(column + i * pitch + t);
#pragma GCC unroll 4
        for (int f = 0; f < F; ++f) {
            const Vec<T> weight = load(w + f * filter + t);
#pragma GCC unroll 3
            for (int i = 0; i < PIXELS; ++i) acc[i][f] += x[i] * weight;
        }
    }
#pragma GCC unroll 3
    for (int i = 0; i < PIXELS; ++i)
#pragma GCC unroll 4
        for (int f = 0; f < F; ++f) {
            Vec<T> sum = acc[i][f];
            Mask<T> lane;
            for (int j = 0; j < W; ++j) lane[j] = j;
#pragma GCC unroll 4
            for (int half = W / 2; half; half /= 2) sum += __builtin_shuffle(sum, lane ^ half);
            T rest = sum[0];
            for (int64_t j = t; j < length; ++j) rest += column[i * pitch + j] * w[f * filter + j];
            sums[i * step + f] += rest;
        }
}

// All pixels with 4 filters.
template <class T>
void multiply(const Columns& columns, const T* column, const T* w, int64_t filter, T* sums, int64_t step) {
    constexpr int64_t longest = stretch_bytes / int64_t(sizeof(T));
    const int64_t stretches = ceil_div(columns.weights, longest);
    for (int64_t i = 0; i < stretches; ++i) {
        const int64_t first = columns.weights * i / stretches / lanes<T> * lanes<T>;
        const int64_t last =
            i + 1 == stretches ? columns.weights : columns.weights * (i + 1) / stretches / lanes<T> * lanes<T>;
        for (int64_t pixel = 0; pixel < columns.pixels; pixel += step_pixels) {
            const int64_t left = columns.pixels - pixel;
            const auto add = left >= 3 ? add_products<T, 3> : left == 2 ? add_products<T, 2> : add_products<T, 1>;
            add(column + pixel * columns.weights + first, columns.weights, w + first, filter, last - first,
                sums + pixel * step, step);
        }
    }
}

// Filters first_k .. first_k + step_filters as they are multiplied; those beyond the last are zeros.
template <class T>
void copy_filters(const Conv2d& conv, const Columns& columns, const Tensor& w, int64_t first_k, T* out) {
    std::memset(out, 0, size_t(step_filters * columns.weights) * sizeof(T));
    with_elements<T>(w, [&](const auto* data) {
        for (int64_t k = first_k; k < min(conv.K, first_k + step_filters); ++k, out += columns.weights)
            for (int64_t r = 0; r < conv.R; ++r)
                copy2d(conv.S, conv.C, data + k * w.stride[0] + r * w.stride[2], w.stride[3], w.stride[1],
                       out + r * columns.r_step, columns.s_step, columns.c_step);
    });
}

template <class T>
void compute_item(const Conv2dProblem& problem, const Plan<T>& plan, const FpropArgs& args, const Columns& columns,
                  const Workspace<T>& space, int64_t item, int thread) {
    const Conv2d& conv = problem.conv;
    const Pool2d& pool = problem.pool;
    T* const sums = of_thread(space.sums, thread, space.per_thread);
    T* const copies = of_thread(space.filters, thread, space.per_thread);
    for (int64_t block = item * plan.item_blocks; block < min(plan.blocks, (item + 1) * plan.item_blocks); ++block) {
        const int64_t first_k = block * plan.block, count = min(plan.block, conv.K - first_k);
        const int vectors = count > lanes<T> ? 2 : 1;
        const int64_t width = vectors * lanes<T>;
        for (int64_t i = 0; i < width; ++i) {
            const T bias =
                args.bias.data && i < count ? value_at<T>(args.bias, (first_k + i) * args.bias.stride[0]) : T(0);
            for (int64_t pixel = 0; pixel < columns.pixels; ++pixel) sums[pixel * width + i] = bias;
        }
        for (int64_t i = 0; i < count; i += step_filters) {
            const bool copied = !columns.in_place || i + step_filters > count;
            const T* w = static_cast<const T*>(args.w.data) + (first_k + i) * columns.filter;
            if (copied) copy_filters(conv, columns, args.w, first_k + i, copies), w = copies;
            multiply(columns, space.columns, w, copied ? columns.weights : columns.filter, sums + i, width);
        }
        for (int64_t n = 0; n < conv.N; ++n)
            run_epilogue(problem, args, n, 0, pool.P, sums + n * conv.P * conv.Q * width, 0, vectors, first_k, count,
                         of_thread(space.row, thread, space.per_thread));
    }
}

template <class T>
void run_typed(const Conv2dProblem& problem, const FpropArgs& args, void* workspace) {
    const Conv2d& conv = problem.conv;
    const Plan<T> plan(conv);
    const Workspace<T> space(problem, plan, workspace);
    const Columns columns(conv, args.w, T());
    parallel_for(problem.threads, conv.N * conv.P * conv.R,
                 [&](int64_t item, int) { pack_columns(conv, columns, args.x, item, space.columns); });
    parallel_for(problem.threads, plan.items,
                 [&](int64_t item, int thread) { compute_item(problem, plan, args, columns, space, item, thread); });
}

bool applies(const Conv2dProblem& problem) {
    return columns_apply(problem) && problem.pool.P > 0 && problem.pool.Q > 0;
}

size_t workspace(const Conv2dProblem& problem) {
    return in_double(problem.dtype) ? Workspace<double>(problem, Plan<double>(problem.conv), nullptr).bytes
                                    : Workspace<float>(problem, Plan<float>(problem.conv), nullptr).bytes;
}

void run(const Conv2dProblem& problem, const FpropArgs& args, void* space) {
    (in_double(problem.dtype) ? run_typed<double> : run_typed<float>)(problem, args, space);
}

}  // namespace

extern const Implementation<FpropArgs> columns_fprop;
const Implementation<FpropArgs> columns_fprop = {"columns", applies, workspace, run};

}  // namespace fastconv::cpu::FASTCONV_ISA
