// conv2d gradient of the input for dense gradients of few pixels and many weights (columns.h), in two steps:
//
//   dcolumn[pixel][weight] = sum over k of dy[pixel][k] * w[k][weight]
//   dx[what column[pixel][weight] stands for] += dcolumn[pixel][weight]
//
// A work item is some channels. It copies their weights into panels, which is all that is done to weights, multiplies
// each by all pixels (micro_kernel.h, with filters for its reduction), and adds up its channels of dx, which it owns.
#include "columns.h"
#include "isa_kernels.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t pass_bytes = 16 << 10;  // of a panel: what the first-level cache can hold

template <class T>
struct Workspace {
    T* dy;                       // [pixel][k]
    Pixel* pixels;               // of dy
    Part* passes;                // over the filters
    T *weights, *products, *dx;  // of thread 0: panels of filters and of pixels, [n, h, w][channel]
    size_t per_thread, bytes;

    Workspace(const Conv2dProblem& problem, const Panels<T>& panels, void* start) {
        const Conv2d& conv = problem.conv;
        const int64_t rows = conv.N * conv.P * conv.Q;
        Carver carver(start);
        dy = carver.take<T>(rows * conv.K);
        pixels = carver.take<Pixel>(rows);
        passes = carver.take<Part>(pass_count(conv));
        const size_t shared = carver.used();
        weights = carver.take<T>(panels.count * panels.width * conv.K);
        products = carver.take<T>(panels.count * panels.width * rows);
        dx = carver.take<T>(conv.N * conv.H * conv.W * panels.channels);
        per_thread = carver.used() - shared;
        bytes = shared + per_thread * size_t(problem.threads);
    }
    static int64_t pass_count(const Conv2d& conv) {
        return ceil_div(conv.K * Panels<T>::width * int64_t(sizeof(T)), pass_bytes);
    }
};

template <class T>
void compute_item(const Conv2d& conv, const Panels<T>& panels, const Columns& columns, const DgradArgs& args,
                  const Workspace<T>& space, int64_t item, int thread) {
    const auto mine = [&](T* of_thread_0) { return of_thread(of_thread_0, thread, space.per_thread); };
    T *const weights = mine(space.weights), *const products = mine(space.products), *const dx = mine(space.dx);
    const int64_t count = panels.channels_of(conv, item), positions = conv.R * conv.S;
    if (columns.in_place) {
        const T* w = static_cast<const T*>(args.w.data);
        for (int64_t k = 0; k < conv.K; ++k, w += columns.filter)
            panels.each_vector(conv, columns, item, conv.K, [&](int64_t from, int64_t place, int64_t some) {
                T* to = weights + place + k * panels.width;
                if (some == lanes<T>) return store(to, load(w + from));
                for (int64_t i = 0; i < lanes<T>; ++i) to[i] = i < some ? w[from + i] : T(0);
            });
    } else {
        for (int64_t c = 0; c < count; ++c)
            for (int64_t position = 0; position < positions; ++position)
                for (int64_t k = 0; k < conv.K; ++k)
                    weights[panels.place(conv, columns, c, position, conv.K) + k * panels.width] = value_at<T>(
                        args.w, k * args.w.stride[0] + (item * panels.channels + c) * args.w.stride[1] +
                                    position / conv.S * args.w.stride[2] + position % conv.S * args.w.stride[3]);
    }

    const T zeros[panels.width] = {};
    PixelGroups groups[2];
    split_evenly(0, columns.pixels, groups);
    const Part* const last = space.passes + space.pass_count(conv);
    for (int64_t panel = 0; panel < panels.count; ++panel) {
        const T* w = weights + panel * panels.width * conv.K;
        for (const Part* pass = space.passes; pass < last; w += pass++->length * panels.width)
            for (const PixelGroups& some : groups)
                run_groups<T, max_vectors>(some, space.dy, space.pixels, pass, pass + 1, w,
                                           pass == space.passes ? zeros : nullptr,
                                           products + panel * panels.width * columns.pixels);
    }

    const int64_t stride[4] = {conv.H * conv.W * count, 1, conv.W * count, count};
    std::memset(dx, 0, size_t(conv.N * conv.H * conv.W * count) * sizeof(T));
    for (int64_t position = 0; position < positions; ++position)
        for (int64_t c = 0; c < count; ++c) {
            const T* from = products + panels.place(conv, columns, c, position, columns.pixels);
            each_pixel<T>(conv, stride, position / conv.S, position % conv.S,
                          [&](int64_t place, int64_t at) { dx[at + c] += from[place]; });
        }
    with_elements<T>(args.dx, [&](auto* data) {
        for (int64_t n = 0; n < conv.N; ++n)
            for (int64_t h = 0; h < conv.H; ++h)
                copy2d(
                    conv.W, count, dx + (n * conv.H + h) * conv.W * count, count, 1,
                    data + n * args.dx.stride[0] + item * panels.channels * args.dx.stride[1] + h * args.dx.stride[2],
                    args.dx.stride[3], args.dx.stride[1]);
    });
}

template <class T>
void run_typed(const Conv2dProblem& problem, const DgradArgs& args, void* workspace) {
    const Conv2d& conv = problem.conv;
    const Panels<T> panels(conv);
    const Workspace<T> space(problem, panels, workspace);
    const Columns columns(conv, args.w, T());
    for (int64_t pixel = 0; pixel < columns.pixels; ++pixel)
        space.pixels[pixel] = {int32_t(pixel * conv.K), int32_t(pixel * lanes<T>)};
    const int64_t passes = space.pass_count(conv);
    for (int64_t i = 0; i < passes; ++i) {
        const int64_t first = conv.K * i / passes, end = conv.K * (i + 1) / passes;
        space.passes[i] = {int32_t(first), int32_t(end - first), 0};
    }
    parallel_for(problem.threads, conv.N * conv.P, [&](int64_t row, int) {
        pack_rows(args.dy, row / conv.P, row % conv.P, 1, 0, conv.Q, conv.K, space.dy + row * conv.Q * conv.K);
    });
    parallel_for(problem.threads, panels.items,
                 [&](int64_t item, int thread) { compute_item(conv, panels, columns, args, space, item, thread); });
}

bool applies(const Conv2dProblem& problem) { return problem.epilogue == Epilogue::none && columns_apply(problem); }

size_t workspace(const Conv2dProblem& problem) {
    return in_double(problem.dtype) ? Workspace<double>(problem, Panels<double>(problem.conv), nullptr).bytes
                                    : Workspace<float>(problem, Panels<float>(problem.conv), nullptr).bytes;
}

void run(const Conv2dProblem& problem, const DgradArgs& args, void* space) {
    (in_double(problem.dtype) ? run_typed<double> : run_typed<float>)(problem, args, space);
}

}  // namespace

extern const Implementation<DgradArgs> columns_dgrad;
const Implementation<DgradArgs> columns_dgrad = {"columns", applies, workspace, run};

}  // namespace fastconv::cpu::FASTCONV_ISA
