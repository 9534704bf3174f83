// Derives the layouts of tensors from their strides and addresses.
#include "layouts.h"

#include <initializer_list>

namespace fastconv {

static int64_t bytes_of(DType dtype) {
    switch (dtype) {
        case DType::float64: return 8;
        case DType::float32:
        case DType::int32: return 4;
        case DType::float16:
        case DType::bfloat16: return 2;
        case DType::uint8: return 1;
    }
    return 1;
}

// The largest power of two, up to 16, that divides every number whose bits are in `bits`.
static int power_of_two(uint64_t bits) {
    bits |= 16;
    return int(bits & (~bits + 1));
}

// channels: channels of one group.
static Layout layout_of(const Tensor& t, int64_t channels) {
    if (t.size[1] <= 1 || t.stride[1] != 1) return {};
    uint64_t elements = uint64_t(channels);
    for (const int d : {0, 2, 3})
        if (t.size[d] > 1) elements |= uint64_t(t.stride[d]);
    return {true, power_of_two(reinterpret_cast<uintptr_t>(t.data) | elements * uint64_t(bytes_of(t.dtype)))};
}

// A code always has its channels inside, and whole packs wherever dy has. Only its address varies.
static Layout layout_of_code(const Tensor& code) {
    return {true, power_of_two(reinterpret_cast<uintptr_t>(code.data))};
}

static Layouts layouts_of(const Conv2d& conv, const Tensor& x, const Tensor& w, const Tensor& y, const Tensor& code) {
    const int64_t channels = conv.C / conv.groups, filters = conv.K / conv.groups;
    return {layout_of(x, channels), layout_of(w, channels), layout_of(y, filters), layout_of_code(code)};
}

Layouts layouts_of(const Conv2d& conv, const FpropArgs& args) {
    return layouts_of(conv, args.x, args.w, args.y, args.code);
}
Layouts layouts_of(const Conv2d& conv, const DgradArgs& args) {
    return layouts_of(conv, args.dx, args.w, args.dy, args.code);
}
Layouts layouts_of(const Conv2d& conv, const WgradArgs& args) {
    return layouts_of(conv, args.x, args.dw, args.dy, args.code);
}

Layouts dense_layouts(const Conv2d& conv, DType dtype, bool channels_inside, int alignment) {
    const auto layout = [&](int64_t all, int64_t channels) {
        if (!channels_inside || all <= 1) return Layout{};
        return Layout{true, power_of_two(uint64_t(channels * bytes_of(dtype)) | uint64_t(alignment))};
    };
    const int64_t channels = conv.C / conv.groups, filters = conv.K / conv.groups;
    return {layout(conv.C, channels),
            layout(channels, channels),
            layout(conv.K, filters),
            {true, power_of_two(uint64_t(alignment))}};
}

static bool operator==(const Layout& a, const Layout& b) {
    return a.channels_inside == b.channels_inside && a.vector_bytes == b.vector_bytes;
}

bool operator==(const Layouts& a, const Layouts& b) {
    return a.x == b.x && a.w == b.w && a.y == b.y && a.code == b.code;
}

}  // namespace fastconv
