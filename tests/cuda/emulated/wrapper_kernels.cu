// One kernel for each wrapper of simt.h: 32 lanes hand their inputs in and their outputs out. Run by the
// emulator and, compiled by nvcc, on a GPU; wrappers.py knows the right answers.
#include "../../../csrc/emulator/interface.h"
#include "../../../csrc/simt/simt.h"

#include <type_traits>

namespace {

using namespace fastconv;

template <class T>
FASTCONV_KERNEL shuffle_kernel(const T* in, T* out, int mode, int by) {
    const int t = simt::thread();
    const T value = in[t];
    out[t] = mode == 0   ? simt::shuffle(value, by < 32 ? by : 31 - simt::lane())
             : mode == 1 ? simt::shuffle_xor(value, by)
                         : simt::shuffle_down(value, by);
}

FASTCONV_KERNEL ballot_kernel(const uint32_t* in, uint32_t* out) {
    const int t = simt::thread();
    out[t] = simt::ballot(in[t] != 0);
}

FASTCONV_KERNEL index_kernel(int* out) {
    const int t = simt::thread();
    const simt::Dim block = simt::block(), grid = simt::grid();
    int* const to = out + (((block.z * grid.y + block.y) * grid.x + block.x) * simt::block_size() + t) * 10;
    const int values[10] = {
        t, simt::block_size(), simt::lane(), simt::warp(), block.x, block.y, block.z, grid.x, grid.y, grid.z};
    for (int i = 0; i < 10; ++i) to[i] = values[i];
}

FASTCONV_KERNEL bits_kernel(const uint32_t* a, const uint32_t* b, const uint32_t* by, uint32_t* out) {
    const int t = simt::thread();
    const uint64_t shifted = simt::shift_left(uint64_t(b[t]) << 32 | a[t], by[t]);
    out[t * 4] = simt::shift_left(a[t], by[t]);
    out[t * 4 + 1] = uint32_t(shifted);
    out[t * 4 + 2] = uint32_t(shifted >> 32);
    out[t * 4 + 3] = simt::permute(a[t], b[t], by[t]);
}

struct Rows {
    uint16_t* rows;
    FASTCONV_HOST_DEVICE explicit Rows(simt::Shared& shared) : rows(shared.take<uint16_t>(256)) {}
};

// Row i of in is what lane i's pointer points at.
template <int matrices, bool trans>
FASTCONV_KERNEL ldmatrix_kernel(const uint16_t* in, uint32_t* out) {
    simt::Shared shared = simt::block_shared();
    const Rows tile(shared);
    const int t = simt::thread();
    simt::store(tile.rows + t * 8, simt::load<8>(in + t * 8));
    simt::sync();
    uint32_t d[matrices];
    const uint16_t* const row = tile.rows + t * 8;
    if constexpr (matrices == 4 && trans) simt::ldmatrix_x4_trans(d, row);
    else if constexpr (matrices == 4) simt::ldmatrix_x4(d, row);
    else if constexpr (trans) simt::ldmatrix_x2_trans(d, row);
    else simt::ldmatrix_x2(d, row);
    for (int i = 0; i < matrices; ++i) out[t * matrices + i] = d[i];
}

// type: 0 tf32, 1 bf16, 2 fp16
template <int type>
FASTCONV_KERNEL mma_kernel(const uint32_t* a, const uint32_t* b, const float* c, float* d) {
    const int t = simt::thread();
    const uint32_t a_lane[4] = {a[t * 4], a[t * 4 + 1], a[t * 4 + 2], a[t * 4 + 3]};
    const uint32_t b_lane[2] = {b[t * 2], b[t * 2 + 1]};
    float sum[4] = {c[t * 4], c[t * 4 + 1], c[t * 4 + 2], c[t * 4 + 3]};
    if constexpr (type == 0) simt::mma_tf32(sum, a_lane, b_lane);
    else if constexpr (type == 1) simt::mma_bf16(sum, a_lane, b_lane);
    else simt::mma_fp16(sum, a_lane, b_lane);
    for (int i = 0; i < 4; ++i) d[t * 4 + i] = sum[i];
}

template <int type, int selector>
FASTCONV_KERNEL mma_sp_kernel(const uint32_t* a, const uint32_t* b, const uint32_t* metadata, const float* c,
                              float* d) {
    const int t = simt::thread();
    const uint32_t a_lane[4] = {a[t * 4], a[t * 4 + 1], a[t * 4 + 2], a[t * 4 + 3]};
    const uint32_t b_lane[4] = {b[t * 4], b[t * 4 + 1], b[t * 4 + 2], b[t * 4 + 3]};
    float sum[4] = {c[t * 4], c[t * 4 + 1], c[t * 4 + 2], c[t * 4 + 3]};
    if constexpr (type == 0) simt::mma_sp_tf32<selector>(sum, a_lane, b_lane, metadata[t]);
    else if constexpr (type == 1) simt::mma_sp_bf16<selector>(sum, a_lane, b_lane, metadata[t]);
    else simt::mma_sp_fp16<selector>(sum, a_lane, b_lane, metadata[t]);
    for (int i = 0; i < 4; ++i) d[t * 4 + i] = sum[i];
}

// Bits of in[t] in a smaller type and back. type as above.
template <int type>
FASTCONV_KERNEL convert_kernel(const float* in, uint32_t* bits, float* back, int count) {
    for (int i = simt::block().x * simt::block_size() + simt::thread(); i < count;
         i += simt::grid().x * simt::block_size()) {
        if constexpr (type == 0) {
            bits[i] = simt::to_tf32(in[i]);
            back[i] = simt::bits_float(bits[i]);
        } else {
            using T = std::conditional_t<type == 1, simt::bfloat16, simt::half>;
            const T value(in[i]);
            bits[i] = value.bits;
            back[i] = float(value);
        }
    }
}

struct Words {
    uint16_t* words;
    FASTCONV_HOST_DEVICE explicit Words(simt::Shared& shared) : words(shared.take<uint16_t>(32 * 8 * 2)) {}
};

// N 16-bit elements a lane, in two groups; zeros where not valid.
template <int N>
FASTCONV_KERNEL copy_kernel(const uint16_t* in, const uint32_t* valid, uint16_t* out) {
    simt::Shared shared = simt::block_shared();
    const Words tile(shared);
    const int t = simt::thread();
    uint16_t *const first = tile.words + t * N, *const second = first + 32 * N;
    simt::copy_async<N>(first, in + t * N, valid[t] != 0);
    simt::copy_commit();
    simt::copy_async<N>(second, in + (32 + t) * N);
    simt::copy_commit();
    simt::copy_wait<1>();
    for (int i = 0; i < N; ++i) out[t * N + i] = first[i];
    simt::copy_wait<0>();
    for (int i = 0; i < N; ++i) out[(32 + t) * N + i] = second[i];
}

// Elements in reverse order, N at a time.
template <class T, int N>
FASTCONV_KERNEL pack_kernel(const T* in, T* out) {
    const int t = simt::thread();
    const simt::Pack<T, N> from = simt::load<N>(in + t * N);
    simt::Pack<T, N> to;
    for (int i = 0; i < N; ++i) to[i] = from[N - 1 - i];
    simt::store(out + t * N, to);
}

// y = x, through all the shared memory that was asked for.
struct Large {
    int* words;
    FASTCONV_HOST_DEVICE Large(simt::Shared& shared, int count) : words(shared.take<int>(count)) {}
};
FASTCONV_KERNEL shared_kernel(const int* in, int* out, int count) {
    simt::Shared shared = simt::block_shared();
    const Large tile(shared, count);
    for (int i = simt::thread(); i < count; i += simt::block_size()) tile.words[i] = in[i];
    simt::sync();
    for (int i = simt::thread(); i < count; i += simt::block_size()) out[i] = tile.words[count - 1 - i];
}

template <class T>
T* as(void* p) {
    return static_cast<T*>(p);
}

}  // namespace

#define SHUFFLE(name, T)                                                                             \
    FASTCONV_ENTRY(name) {                                                                           \
        return entry_result(simt::launch(shuffle_kernel<T>, {1}, 32, 0, nullptr, as<T>(pointers[0]), \
                                         as<T>(pointers[1]), int(numbers[0]), int(numbers[1])));     \
    }
SHUFFLE(wrapper_shuffle_f32, float)
SHUFFLE(wrapper_shuffle_i32, int32_t)
SHUFFLE(wrapper_shuffle_f64, double)
SHUFFLE(wrapper_shuffle_i64, int64_t)

FASTCONV_ENTRY(wrapper_ballot) {
    return entry_result(
        simt::launch(ballot_kernel, {1}, 32, 0, nullptr, as<uint32_t>(pointers[0]), as<uint32_t>(pointers[1])));
}

FASTCONV_ENTRY(wrapper_index) {
    return entry_result(simt::launch(index_kernel, {int(numbers[0]), int(numbers[1]), int(numbers[2])}, int(numbers[3]),
                                     0, nullptr, as<int>(pointers[0])));
}

FASTCONV_ENTRY(wrapper_bits) {
    return entry_result(simt::launch(bits_kernel, {1}, 32, 0, nullptr, as<uint32_t>(pointers[0]),
                                     as<uint32_t>(pointers[1]), as<uint32_t>(pointers[2]), as<uint32_t>(pointers[3])));
}

#define LDMATRIX(name, matrices, trans)                                                                      \
    FASTCONV_ENTRY(name) {                                                                                   \
        simt::Shared shared;                                                                                 \
        const Rows rows(shared);                                                                             \
        return entry_result(simt::launch(ldmatrix_kernel<matrices, trans>, {1}, 32, shared.bytes(), nullptr, \
                                         as<uint16_t>(pointers[0]), as<uint32_t>(pointers[1])));             \
    }
LDMATRIX(wrapper_ldmatrix_x4, 4, false)
LDMATRIX(wrapper_ldmatrix_x4_trans, 4, true)
LDMATRIX(wrapper_ldmatrix_x2, 2, false)
LDMATRIX(wrapper_ldmatrix_x2_trans, 2, true)

#define MMA(name, type)                                                                                               \
    FASTCONV_ENTRY(name) {                                                                                            \
        return entry_result(simt::launch(mma_kernel<type>, {1}, 32, 0, nullptr, as<uint32_t>(pointers[0]),            \
                                         as<uint32_t>(pointers[1]), as<float>(pointers[2]), as<float>(pointers[3]))); \
    }
MMA(wrapper_mma_tf32, 0)
MMA(wrapper_mma_bf16, 1)
MMA(wrapper_mma_fp16, 2)

#define MMA_SP(name, type, selector)                                                                                  \
    FASTCONV_ENTRY(name) {                                                                                            \
        return entry_result(simt::launch(mma_sp_kernel<type, selector>, {1}, 32, 0, nullptr,                          \
                                         as<uint32_t>(pointers[0]), as<uint32_t>(pointers[1]),                        \
                                         as<uint32_t>(pointers[2]), as<float>(pointers[3]), as<float>(pointers[4]))); \
    }
MMA_SP(wrapper_mma_sp_tf32_0, 0, 0)
MMA_SP(wrapper_mma_sp_tf32_1, 0, 1)
MMA_SP(wrapper_mma_sp_bf16_0, 1, 0)
MMA_SP(wrapper_mma_sp_bf16_1, 1, 1)
MMA_SP(wrapper_mma_sp_fp16_0, 2, 0)
MMA_SP(wrapper_mma_sp_fp16_1, 2, 1)

#define CONVERT(name, type)                                                                                    \
    FASTCONV_ENTRY(name) {                                                                                     \
        return entry_result(simt::launch(convert_kernel<type>, {4}, 128, 0, nullptr, as<float>(pointers[0]),   \
                                         as<uint32_t>(pointers[1]), as<float>(pointers[2]), int(numbers[0]))); \
    }
CONVERT(wrapper_convert_tf32, 0)
CONVERT(wrapper_convert_bf16, 1)
CONVERT(wrapper_convert_fp16, 2)

#define COPY(name, N)                                                                                                 \
    FASTCONV_ENTRY(name) {                                                                                            \
        simt::Shared shared;                                                                                          \
        const Words words(shared);                                                                                    \
        return entry_result(simt::launch(copy_kernel<N>, {1}, 32, shared.bytes(), nullptr, as<uint16_t>(pointers[0]), \
                                         as<uint32_t>(pointers[1]), as<uint16_t>(pointers[2])));                      \
    }
COPY(wrapper_copy_4, 2)
COPY(wrapper_copy_8, 4)
COPY(wrapper_copy_16, 8)

#define PACK(name, T, N)                                                                                   \
    FASTCONV_ENTRY(name) {                                                                                 \
        return entry_result(                                                                               \
            simt::launch(pack_kernel<T, N>, {1}, 32, 0, nullptr, as<T>(pointers[0]), as<T>(pointers[1]))); \
    }
PACK(wrapper_pack_f32x4, float, 4)
PACK(wrapper_pack_u16x8, uint16_t, 8)
PACK(wrapper_pack_f64x2, double, 2)
PACK(wrapper_pack_u8x4, uint8_t, 4)

FASTCONV_ENTRY(wrapper_shared) {
    const int count = int(numbers[0]);
    simt::Shared shared;
    const Large tile(shared, count);
    return entry_result(simt::launch(shared_kernel, {1}, 128, shared.bytes(), nullptr, as<int>(pointers[0]),
                                     as<int>(pointers[1]), count));
}
