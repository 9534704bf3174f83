// The matrix product of a convolution with few channels, such as a network's first layer, on tensor cores:
//
//   rows     pixels of the convolution's output: a rectangle of one image, its width a multiple of 8
//   columns  filters
//   steps    taps, in the order (s, c, r)
//
// With few channels no 16 bytes lie together for a copy, and few columns share the cost of loading each element of x
// once per tap. So these kernels load each element of x once:
//
//   a block   keeps all taps of its filters in shared memory and processes rectangle after rectangle. It loads the
//             halo, the part of x below a rectangle, and multiplies. The sums then overwrite the halo
//   a warp    reads its filters 16 bytes a lane, already arranged as fragments of the right operand
//   a thread  reads single elements of the left operand, at its pixel's place in the halo plus the tap's (a table)
//
// Reads are free of bank conflicts. The 8 rows of a fragment are 8 neighbors in a rectangle's row, and their elements
// are neighbors in shared memory, since columns of x one stride apart are stored together (Halo::column). The 4 lanes
// of a row read 4 consecutive taps in (c, r), which lie 8 or 24 banks apart: rows of x one dilation apart do, and so
// does the next channel. The taps of each s are padded to a multiple of four. Padding taps read zeros behind the last
// channel, so they spread no inf or NaN.
#pragma once

#include "conv2d_fprop.cuh"
#include "conv2d_pool_tiling.cuh"

namespace fastconv::cuda {

// These tiles use no pipeline. Their single stage is smaller than the sums' buffer.
template <class T>
struct FewChannelsTiles {
    static constexpr int steps = 64 / int(sizeof(T));
    using wide = MmaTile<T, 128, 64, steps, 1, 32, 64>;
    using narrow = MmaTile<T, 256, 32, steps, 1, 64, 32>;
};

// Halo is the layout of the part of x below a rectangle in shared memory: [c][h][w % stride][w / stride].
struct Halo {
    int height = 0, width = 0;  // pixels of x
    int pitch = 0, plane = 0;   // elements from one h to the next, from one c to the next
    Divider part, stride;       // part: columns with the same w % stride
    Taps order;                 // of the elements in shared memory

    Halo() = default;
    Halo(const Geometry& conv, int rows, int columns, int element_bytes, int apart)
        : height((rows - 1) * conv.stride_h + (conv.R - 1) * conv.dilation_h + 1),
          width((columns - 1) * conv.stride_w + (conv.S - 1) * conv.dilation_w + 1),
          part(columns + (conv.S - 1) * conv.dilation_w / conv.stride_w),
          stride(conv.stride_w) {
        const int in_row = least(conv.stride_w, width) * part.divisor;
        order = Taps(conv.channels, height, in_row, false);
        // The distance from one r to the next is an odd multiple of `apart` banks.
        const int banks = 32 * 4 / element_bytes, dilation = conv.R > 1 ? conv.dilation_h : 1;
        int unit = apart * 4 / element_bytes;
        for (int d = dilation; d % 2 == 0 && unit > 1; d /= 2) unit /= 2;
        pitch = ceil_div(in_row, unit) * unit;
        if (pitch / unit % 2 == 0) pitch += unit;
        const int next = conv.R * dilation * pitch;  // the place after the last r
        plane = next + ceil_div(height * pitch - next, banks) * banks;
    }
    FASTCONV_HOST_DEVICE int column(int w) const {
        const int in_part = stride.split(w);
        return w * part.divisor + in_part;
    }
    FASTCONV_HOST_DEVICE int size(int channels) const { return (channels + 1) * plane; }
};

// FewChannelsLayout says how the output is cut into rectangles, and the reduction into steps.
struct FewChannelsLayout {
    Halo halo;
    PoolGeometry pool;  // 1x1 windows without a pool
    PoolTiling tiling;
    Divider tiles_h, tiles_w;      // rectangles of an image
    Divider width;                 // pixels of a rectangle
    Divider taps_of_s, taps_of_c;  // taps of one s, padded, and of one c in it
    int steps = 0;                 // products along the taps
    int rectangles = 0;            // of all images
    int rectangles_per_block = 1;
};

// A rectangle's position: its first pixel (p, q) and first pooled pixel (pp, qq) in image n.
struct Rectangle {
    int n, pp, qq, p, q;
};
// Calls visit(rectangle) for the rectangles of a block; blocks are numbered within their column of filters.
template <class Visit>
FASTCONV_DEVICE void each_rectangle(const FewChannelsLayout& layout, int block, const Visit& visit) {
    const PoolGeometry& pool = layout.pool;
    const int last = least((block + 1) * layout.rectangles_per_block, layout.rectangles);
    for (int i = block * layout.rectangles_per_block; i < last; ++i) {
        int column = i, row = layout.tiles_w.split(column);
        const int n = layout.tiles_h.split(row);
        const int pp = row * layout.tiling.pooled_h, qq = column * layout.tiling.pooled_w;
        visit(Rectangle{n, pp, qq, pp * pool.stride_h - pool.pad_h, qq * pool.stride_w - pool.pad_w});
    }
}

template <class Tile>
struct FewChannelsMemory {
    uint32_t* filters;  // [step][16 columns][lane][2 of 8 columns][a lane's half of the step]
    int* taps;          // bytes from a pixel to a tap in the halo: [step][lane % 4][one of every 4]
    FASTCONV_HOST_DEVICE FewChannelsMemory(simt::Shared& shared, int steps)
        : filters(shared.take<uint32_t>(steps * Tile::columns * 8)), taps(shared.take<int>(steps * 2 * Tile::vector)) {}
};

FASTCONV_DEVICE float rounded(float value) { return simt::bits_float(simt::to_tf32(value)); }
template <class T>
FASTCONV_DEVICE T rounded(T value) {
    return value;
}

template <class T>
FASTCONV_DEVICE const T* bytes_on(const T* from, int bytes) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(from) + bytes);
}

// Returns 4 bytes of an operand: one or two elements, at their taps' offsets.
FASTCONV_DEVICE uint32_t operand(const float* from, const int* places) {
    return simt::float_bits(*bytes_on(from, places[0]));
}
template <class T>
FASTCONV_DEVICE uint32_t operand(const T* from, const int* places) {
    return uint32_t(bytes_on(from, places[0])->bits) | uint32_t(bytes_on(from, places[1])->bits) << 16;
}

// Loads the halo, rounded to the tensor cores' precision. `beyond` fills the plane behind the last channel.
template <class Tile, class T>
FASTCONV_DEVICE void load_halo(const ImageView<T>& x, const Strides& strides, const Geometry& conv, const Halo& halo,
                               const Rectangle& rectangle, T beyond, T* to) {
    constexpr int at_once = 4, vector = Tile::vector;
    const int h = rectangle.p * conv.stride_h - conv.pad_h, w = rectangle.q * conv.stride_w - conv.pad_w;
    const Coord corner{strides.at(rectangle.n, 0, h, w), h, w, 0, 0};
    const int count = conv.channels * halo.order.outer.divisor;
    for (int first = simt::thread(); first < count; first += at_once * Tile::threads) {
        T value[at_once];
        int place[at_once];
        FASTCONV_UNROLL
        for (int i = 0; i < at_once; ++i) {
            const Tap t = halo.order.at(first + i * Tile::threads);  // (r, s): row and column of the halo
            int column = t.s;
            const int part = halo.part.split(column);
            column = column * conv.stride_w + part;
            const Coord coord = corner + Coord{strides.at(0, t.c, t.r, column), t.r, column, 0, 0};
            place[i] = first + i * Tile::threads < count ? t.c * halo.plane + t.r * halo.pitch + t.s : -1;
            value[i] = T(0.0f);
            if (place[i] >= 0 && x.inside(coord)) value[i] = *x.at(coord);
        }
        FASTCONV_UNROLL
        for (int i = 0; i < at_once; ++i)
            if (place[i] >= 0) to[place[i]] = rounded(value[i]);
    }
    simt::Pack<T, vector> pack;
    FASTCONV_UNROLL
    for (int v = 0; v < vector; ++v) pack[v] = beyond;
    for (int i = simt::thread() * vector; i < halo.plane; i += Tile::threads * vector)
        simt::store(to + conv.channels * halo.plane + i, pack);
}

// The products of one block's filters, from `first_column` on, with one rectangle after another.
template <class T, class Tile>
class FewChannelsProduct {
    static constexpr int taps = 2 * Tile::vector;  // per product
    static constexpr int of_lane = taps / 4;       // taps per lane, one of every four

public:
    // Stores the filters and the taps' places to shared memory. `scratch` holds the taps' offsets in w meanwhile.
    FASTCONV_DEVICE FewChannelsProduct(const FpropInput<T>& in, const FewChannelsLayout& layout,
                                       const FewChannelsMemory<Tile>& memory, void* scratch, int first_column)
        : memory_(memory) {
        int* const in_w = static_cast<int*>(scratch);
        for (int i = simt::thread(); i < layout.steps * taps; i += Tile::threads) {
            int r = i;
            const int s = layout.taps_of_s.split(r), c = layout.taps_of_c.split(r);
            const bool there = s < in.conv.S && c < in.conv.channels;
            const int at = i / taps * taps + i % 4 * of_lane + i % taps / 4;
            in_w[at] = there ? int(in.w_strides.at(0, c, r, s)) : -1;
            const int row = there ? c * layout.halo.plane + r * in.conv.dilation_h * layout.halo.pitch
                                  : in.conv.channels * layout.halo.plane;
            const int column = layout.halo.column(least(s, in.conv.S - 1) * in.conv.dilation_w);
            memory.taps[at] = (row + column) * int(sizeof(T));
        }
        simt::sync();
        for (int i = simt::thread(); i < layout.steps * Tile::columns * 2; i += Tile::threads) {
            const int lane = i % 32, pair = i / 32 % (Tile::columns / 16), step = i / (Tile::columns * 2);
            const int* const places = in_w + step * taps + lane % 4 * of_lane;
            simt::Pack<T, 2 * of_lane> pack;
            FASTCONV_UNROLL
            for (int v = 0; v < 2 * of_lane; ++v) {
                const int column = first_column + pair * 16 + v / of_lane * 8 + lane / 4;
                const int place = places[v % of_lane];
                pack[v] = place >= 0 && column < in.conv.filters
                              ? rounded(in.w.view.data[column * in.w_strides.n + place])
                              : T(0.0f);
            }
            simt::store(reinterpret_cast<T*>(memory.filters) + i * 2 * of_lane, pack);
        }
        simt::sync();
        FASTCONV_UNROLL
        for (int i = 0; i < rows; ++i) {
            int column = Sums<Tile>::first_row() + i * 8 + simt::lane() / 4;
            int row = layout.width.split(column);
            if (row >= layout.tiling.height) row = 0;
            pixel_[i] = row * in.conv.stride_h * layout.halo.pitch + column;
        }
    }

    // Loads the halo into `memory` and multiplies. All threads must be done with `memory` before, and are done with the
    // halo afterwards.
    FASTCONV_DEVICE void multiply(Sums<Tile>& sums, const FpropInput<T>& in, const FewChannelsLayout& layout,
                                  const Rectangle& rectangle, void* memory) const {
        T* const halo = static_cast<T*>(memory);
        load_halo<Tile>(in.x.view, in.x_strides, in.conv, layout.halo, rectangle, T(0.0f), halo);
        sums.clear();
        simt::sync();
        const T* pixel[rows];
        FASTCONV_UNROLL
        for (int i = 0; i < rows; ++i) pixel[i] = halo + pixel_[i];
        const int* place = memory_.taps + simt::lane() % 4 * of_lane;
        const uint32_t* right = memory_.filters + Sums<Tile>::first_column() * 8 + simt::lane() * 4;
        for (int step = 0; step < layout.steps; ++step) {
            const auto places = simt::load<of_lane>(place);
            uint32_t a[Sums<Tile>::high][4];
            FASTCONV_UNROLL
            for (int i = 0; i < rows; ++i) {
                a[i / 2][i % 2] = operand(pixel[i], places.data);
                a[i / 2][i % 2 + 2] = operand(pixel[i], places.data + of_lane / 2);
            }
            FASTCONV_UNROLL
            for (int n = 0; n < Sums<Tile>::wide; n += 2) {
                const auto b = simt::load<4>(right + n / 2 * 128);
                FASTCONV_UNROLL
                for (int m = 0; m < Sums<Tile>::high; ++m) {
                    Mma<T>::add(sums.value[m][n], a[m], {b[0], b[1]});
                    Mma<T>::add(sums.value[m][n + 1], a[m], {b[2], b[3]});
                }
            }
            place += taps;
            right += Tile::columns * 8;
        }
        simt::sync();
    }

private:
    static constexpr int rows = 2 * Sums<Tile>::high;  // rows per thread, 8 apart
    FewChannelsMemory<Tile> memory_;
    int pixel_[rows];  // their places in the halo
};

}  // namespace fastconv::cuda
