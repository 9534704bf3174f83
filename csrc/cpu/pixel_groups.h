// Groups the pixels of a convolution's output for the micro-kernel so that edge pixels do not multiply padding. Pixels
// that need the same kernel positions form a class, which is cut into groups. The few that would leave a group half
// empty join a class that needs more positions.
#pragma once

#include "micro_kernel.h"
#include "pool_window.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int max_spans = 12, max_classes = max_spans * max_spans;
constexpr int64_t least_pixels = 4;  // a smaller group takes as long: it waits for its own sums

// Rows (or columns) of pixels, cut into spans for which the same kernel rows (columns) lie in x. It is one span with
// all of the kernel if spans are too many, or padding is too small to be worth it.
struct Spans {
    int count = 0;
    Range pixels[max_spans], taps[max_spans];

    Spans() = default;
    Spans(Range all, int64_t stride, int64_t pad, int64_t dilation, int64_t window, int64_t size) {
        int64_t total = 0;
        for (int64_t p = all.first; p < all.last && count <= max_spans; ++p) {
            const Range needed = valid_positions(p * stride - pad, dilation, window, size);
            total += needed.last - needed.first;
            if (count && taps[count - 1].first == needed.first && taps[count - 1].last == needed.last)
                pixels[count - 1].last = p + 1;
            else if (count++ < max_spans) pixels[count - 1] = {p, p + 1}, taps[count - 1] = needed;
        }
        if (count > max_spans || total * 32 > (all.last - all.first) * window * 31)
            pixels[0] = all, taps[0] = {0, window}, count = 1;
    }
};

// Pixels that need no kernel positions beyond rows x columns: those of a span of rows and a span of columns, and those
// that joined.
struct PixelClass {
    Range rows, columns;
    int64_t count;
    PixelClass* joined;     // the class that its surplus pixels join
    int64_t first, filled;  // start of its pixels, number of those listed
    PixelGroups groups[2];

    int64_t positions() const { return (rows.last - rows.first) * (columns.last - columns.first); }
    bool covers(const PixelClass& other) const {
        return rows.first <= other.rows.first && other.rows.last <= rows.last && columns.first <= other.columns.first &&
               other.columns.last <= columns.last;
    }
};

// Moves the pixels that would leave a group half empty to the class that needs the fewest more positions, if that saves
// time.
inline void join(PixelClass& few, PixelClass* const* more, PixelClass* const* end) {
    const int64_t left = few.count % max_pixels;
    while (more < end && !(*more)->covers(few)) ++more;
    if (more == end || left * (*more)->positions() >= max(left, least_pixels) * few.positions()) return;
    few.count -= left, (*more)->count += left, few.joined = *more;
}

// Steps from pixel to pixel of the output, in the packed input and between places for sums.
struct PixelSteps {
    int64_t row, column, place_row, place_column;
};

// Lists the pixels of some rows of the output and their classes. Packed input and buffer start with these rows. Returns
// the number of classes.
inline int64_t group_pixels(const Spans& rows, const Spans& columns, const PixelSteps& steps, Pixel* pixels,
                            PixelClass* classes) {
    PixelClass* by_positions[max_classes];  // ascending
    const int count = rows.count * columns.count;
    for (int i = 0; i < count; ++i) {
        const int row = i / columns.count, column = i % columns.count;
        const Range &p = rows.pixels[row], &q = columns.pixels[column];
        classes[i] = {rows.taps[row], columns.taps[column], (p.last - p.first) * (q.last - q.first), nullptr, 0, 0, {}};
        int at = i;
        for (; at > 0 && by_positions[at - 1]->positions() > classes[i].positions(); --at)
            by_positions[at] = by_positions[at - 1];
        by_positions[at] = classes + i;
    }
    for (int i = 0; i < count; ++i) join(*by_positions[i], by_positions + i + 1, by_positions + count);
    for (int64_t i = 0, first = 0; i < count; first += classes[i++].count) {
        classes[i].first = first;
        split_evenly(first, classes[i].count, classes[i].groups);
    }
    if (count == 0) return 0;
    const int64_t first_row = rows.pixels[0].first;
    for (int i = 0; i < count; ++i) {
        const Range &p = rows.pixels[i / columns.count], &q = columns.pixels[i % columns.count];
        for (int64_t row = p.first - first_row; row < p.last - first_row; ++row)
            for (int64_t column = q.first, end; column < q.last;) {
                PixelClass* to = classes + i;
                while (to->filled == to->count) to = to->joined;
                Pixel* pixel = pixels + to->first + to->filled - column;
                end = min(q.last, column + to->count - to->filled), to->filled += end - column;
                for (; column < end; ++column)
                    pixel[column] = {int32_t(row * steps.row + column * steps.column),
                                     int32_t(row * steps.place_row + column * steps.place_column)};
            }
    }
    int64_t left = 0;
    for (int i = 0; i < count; ++i)
        if (classes[i].count) classes[left++] = classes[i];
    return left;
}

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
