// conv2d gradients of weight and bias for dense gradients of few pixels and many weights (columns.h):
//
//   dw[k][weight] = sum over pixels of dy[pixel][k] * column[pixel][weight]
//
// A work item is some channels. It makes panels of its columns, multiplies each by dy for all filters (micro_kernel.h,
// with filters in the place of its pixels and pixels for its reduction), and writes its part of every filter's dw.
#include "columns.h"
#include "isa_kernels.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t filters_packed = 64;  // at a time

template <class T>
struct Workspace {
    T* dy;                  // [k][pixel]
    Pixel* filters;         // of dy
    T *columns, *products;  // of thread 0: panels of pixels and of filters
    size_t per_thread, bytes;

    Workspace(const Conv2dProblem& problem, const Panels<T>& panels, void* start) {
        const Conv2d& conv = problem.conv;
        const int64_t rows = conv.N * conv.P * conv.Q;
        Carver carver(start);
        dy = carver.take<T>(conv.K * rows);
        filters = carver.take<Pixel>(conv.K);
        const size_t shared = carver.used();
        columns = carver.take<T>(panels.count * panels.width * rows);
        products = carver.take<T>(panels.count * panels.width * conv.K);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
};

// Filters of dy by rows of pixels, and their sums.
template <class T>
void pack_gradients(const Conv2d& conv, const WgradArgs& args, int64_t pixels, int64_t first_k, int64_t count, T* out) {
    const Tensor& dy = args.dy;
    out += first_k * pixels;
    with_elements<T>(dy, [&](const auto* data) {
        for (int64_t row = 0; row < conv.N * conv.P; ++row)
            copy2d(count, conv.Q,
                   data + row / conv.P * dy.stride[0] + row % conv.P * dy.stride[2] + first_k * dy.stride[1],
                   dy.stride[1], dy.stride[3], out + row * conv.Q, pixels, 1);
    });
    if (!args.dbias.data) return;
    for (int64_t k = 0; k < count; ++k) {
        double sum = 0;
        for (int64_t pixel = 0; pixel < pixels; ++pixel) sum += out[k * pixels + pixel];
        set_value<T>(args.dbias, (first_k + k) * args.dbias.stride[0], T(sum));
    }
}

template <class T>
void compute_item(const Conv2d& conv, const Panels<T>& panels, const Columns& columns, const WgradArgs& args,
                  const Workspace<T>& space, int64_t item, int thread) {
    T* const column = of_thread(space.columns, thread, space.per_thread);
    T* const products = of_thread(space.products, thread, space.per_thread);
    const int64_t first_c = item * panels.channels, count = panels.channels_of(conv, item);
    const int64_t positions = conv.R * conv.S;
    std::memset(column, 0, size_t(panels.count * panels.width * columns.pixels) * sizeof(T));
    with_elements<T>(args.x, [&](const auto* data) {
        for (int64_t c = 0; c < count; ++c)
            for (int64_t position = 0; position < positions; ++position) {
                const auto* x = data + (first_c + c) * args.x.stride[1];
                T* to = column + panels.place(conv, columns, c, position, columns.pixels);
                each_pixel<T>(conv, args.x.stride, position / conv.S, position % conv.S,
                              [&](int64_t place, int64_t at) { to[place] = T(x[at]); });
            }
    });

    const T zeros[panels.width] = {};
    PixelGroups groups[2];
    split_evenly(0, conv.K, groups);
    const Part pixels = {0, int32_t(columns.pixels), 0};
    for (int64_t panel = 0; panel < panels.count; ++panel)
        for (const PixelGroups& some : groups)
            run_groups<T, max_vectors>(some, space.dy, space.filters, &pixels, &pixels + 1,
                                       column + panel * panels.width * columns.pixels, zeros,
                                       products + panel * panels.width * conv.K);

    if (columns.in_place) {
        T* dw = static_cast<T*>(args.dw.data);
        for (int64_t k = 0; k < conv.K; ++k, dw += columns.filter)
            panels.each_vector(conv, columns, item, conv.K, [&](int64_t to, int64_t place, int64_t some) {
                const T* from = products + place + k * panels.width;
                if (some == lanes<T>) return store(dw + to, load(from));
                for (int64_t i = 0; i < some; ++i) dw[to + i] = from[i];
            });
        return;
    }
    for (int64_t c = 0; c < count; ++c)
        for (int64_t position = 0; position < positions; ++position)
            for (int64_t k = 0; k < conv.K; ++k)
                set_value<T>(args.dw,
                             k * args.dw.stride[0] + (first_c + c) * args.dw.stride[1] +
                                 position / conv.S * args.dw.stride[2] + position % conv.S * args.dw.stride[3],
                             products[panels.place(conv, columns, c, position, conv.K) + k * panels.width]);
}

template <class T>
void run_typed(const Conv2dProblem& problem, const WgradArgs& args, void* workspace) {
    const Conv2d& conv = problem.conv;
    const Panels<T> panels(conv);
    const Workspace<T> space(problem, panels, workspace);
    const Columns columns(conv, args.dw, T());
    for (int64_t k = 0; k < conv.K; ++k) space.filters[k] = {int32_t(k * columns.pixels), int32_t(k * lanes<T>)};
    parallel_for(problem.threads, ceil_div(conv.K, filters_packed), [&](int64_t item, int) {
        const int64_t first_k = item * filters_packed;
        pack_gradients(conv, args, columns.pixels, first_k, min(filters_packed, conv.K - first_k), space.dy);
    });
    if (!args.dw.data) return;
    parallel_for(problem.threads, panels.items,
                 [&](int64_t item, int thread) { compute_item(conv, panels, columns, args, space, item, thread); });
}

bool applies(const Conv2dProblem& problem) { return problem.epilogue == Epilogue::none && columns_apply(problem); }

size_t workspace(const Conv2dProblem& problem) {
    return in_double(problem.dtype) ? Workspace<double>(problem, Panels<double>(problem.conv), nullptr).bytes
                                    : Workspace<float>(problem, Panels<float>(problem.conv), nullptr).bytes;
}

void run(const Conv2dProblem& problem, const WgradArgs& args, void* space) {
    (in_double(problem.dtype) ? run_typed<double> : run_typed<float>)(problem, args, space);
}

}  // namespace

extern const Implementation<WgradArgs> columns_wgrad;
const Implementation<WgradArgs> columns_wgrad = {"columns", applies, workspace, run};

}  // namespace fastconv::cpu::FASTCONV_ISA
