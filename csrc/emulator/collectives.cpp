// Operations of a whole warp, with the lane layouts of the PTX manual.
#include <cstring>

#include "state.h"

namespace fastconv::emulator {

void warp_barrier(Where where) { warp_collective("sync_warp", nullptr, nullptr, nullptr, where); }

namespace {

struct ShuffleIn {
    uint64_t value;
    int source;
};

void shuffle_all(const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    for (int lane = 0; lane < warp_size; ++lane) {
        const int source = static_cast<const ShuffleIn*>(in[lane])->source;
        const int from = source >= 0 && source < warp_size ? source : lane;
        *static_cast<uint64_t*>(out[lane]) = static_cast<const ShuffleIn*>(in[from])->value;
    }
}

void ballot_all(const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    uint32_t bits = 0;
    for (int lane = 0; lane < warp_size; ++lane) bits |= uint32_t(*static_cast<const bool*>(in[lane])) << lane;
    for (int lane = 0; lane < warp_size; ++lane) *static_cast<uint32_t*>(out[lane]) = bits;
}

// Lanes 8m to 8m + 7 point to the rows of matrix m: 8 rows of 8 elements of 16 bits. A lane gets elements (lane / 4, 2
// * (lane % 4)) and its neighbor; with trans, those of the transposed matrix.
template <int matrices, bool trans>
void ldmatrix_all(const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    for (int m = 0; m < matrices; ++m) {
        uint16_t rows[8][8];
        for (int r = 0; r < 8; ++r) std::memcpy(rows[r], in[8 * m + r], 16);
        for (int lane = 0; lane < warp_size; ++lane) {
            const int i = lane / 4, j = 2 * (lane % 4);
            const uint32_t low = trans ? rows[j][i] : rows[i][j], high = trans ? rows[j + 1][i] : rows[i][j + 1];
            static_cast<uint32_t*>(out[lane])[m] = low | high << 16;
        }
    }
}

struct MmaIn {
    const uint32_t *a, *b;
    uint32_t metadata = 0;  // of mma_sp
    int selector = 0;
};

float bf16_value(uint32_t bits) { return simt::bits_float((bits & 0xffffu) << 16); }
float fp16_value(uint32_t bits) { return simt::half_value(uint16_t(bits)); }
float tf32_value(uint32_t bits) { return simt::bits_float(bits & 0xffffe000u); }  // the hardware ignores the other bits

template <int depth>
struct MmaOperands {
    float a[16][depth], b[depth][8];
};

// d (16 x 8) += a (16 x depth) * b (depth x 8). The sum over the depth is computed in double: tensor cores keep more
// bits than float inside one product; how many is not documented.
template <int depth>
void add_products(const MmaOperands<depth>& operands, void* const (&out)[warp_size]) {
    const auto& [a, b] = operands;
    for (int lane = 0; lane < warp_size; ++lane)
        for (int r = 0; r < 4; ++r) {
            const int row = lane / 4 + 8 * (r / 2), column = 2 * (lane % 4) + r % 2;
            float& d = static_cast<float*>(out[lane])[r];
            double sum = d;
            for (int k = 0; k < depth; ++k) sum += double(a[row][k]) * b[k][column];
            d = float(sum);
        }
}

// `per_register`: elements per register, neighbors along the depth.
template <int depth, int per_register, class Value>
void mma_all(Value value, const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    MmaOperands<depth> operands;
    for (int lane = 0; lane < warp_size; ++lane) {
        const MmaIn& fragment = *static_cast<const MmaIn*>(in[lane]);
        const int group = lane / 4, within = lane % 4;
        for (int half = 0; half < per_register; ++half) {
            const int shift = 16 * half;
            for (int r = 0; r < 4; ++r) {
                const int row = group + 8 * (r % 2), k = within * per_register + half + depth / 2 * (r / 2);
                operands.a[row][k] = value(fragment.a[r] >> shift);
            }
            for (int r = 0; r < 2; ++r) {
                const int k = within * per_register + half + depth / 2 * r;
                operands.b[k][group] = value(fragment.b[r] >> shift);
            }
        }
    }
    add_products(operands, out);
}

// A register of a holds the kept elements of one chunk of neighbors along the depth. There are 8 chunks.
template <int depth, int per_register, class Value>
void mma_sp_all(Value value, const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    constexpr int chunk = depth / 8;
    MmaOperands<depth> operands{};
    for (int lane = 0; lane < warp_size; ++lane) {
        const MmaIn& fragment = *static_cast<const MmaIn*>(in[lane]);
        const int group = lane / 4, within = lane % 4;
        for (int r = 0; r < 4; ++r) {
            const int row = group + 8 * (r % 2), at = within + 4 * (r / 2);
            const MmaIn& other = *static_cast<const MmaIn*>(in[4 * group + 2 * fragment.selector + at / 4]);
            const uint32_t nibble = other.metadata >> (16 * (row / 8) + 4 * (at % 4)) & 15;
            float* const to = operands.a[row] + chunk * at;
            if (per_register == 1) {
                to[nibble >> 3] = value(fragment.a[r]);
            } else {
                to[nibble & 3] = value(fragment.a[r]);
                to[nibble >> 2] = value(fragment.a[r] >> 16);
            }
        }
        for (int r = 0; r < 4; ++r)
            for (int half = 0; half < per_register; ++half)
                operands.b[(within + 4 * r) * per_register + half][group] = value(fragment.b[r] >> 16 * half);
    }
    add_products(operands, out);
}

void mma_tf32_all(const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    mma_all<8, 1>(tf32_value, in, out);
}
void mma_bf16_all(const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    mma_all<16, 2>(bf16_value, in, out);
}
void mma_fp16_all(const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    mma_all<16, 2>(fp16_value, in, out);
}
void mma_sp_tf32_all(const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    mma_sp_all<16, 1>(tf32_value, in, out);
}
void mma_sp_bf16_all(const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    mma_sp_all<32, 2>(bf16_value, in, out);
}
void mma_sp_fp16_all(const void* const (&in)[warp_size], void* const (&out)[warp_size]) {
    mma_sp_all<32, 2>(fp16_value, in, out);
}

}  // namespace

uint64_t shuffle(const char* name, uint64_t value, int source, Where where) {
    const ShuffleIn in{value, source};
    uint64_t out = 0;
    warp_collective(name, shuffle_all, &in, &out, where);
    return out;
}

uint32_t ballot(bool value, Where where) {
    uint32_t out = 0;
    warp_collective("ballot", ballot_all, &value, &out, where);
    return out;
}

void ldmatrix(const char* name, uint32_t* d, const void* row, int matrices, bool trans, Where where) {
    if (running.current->index % warp_size < 8 * matrices) {
        if (!in_shared(row)) fail(prefix(where) + name + " reads from outside shared memory");
        check_access(row, 16, false, where);
    }
    const Collective compute = matrices == 4 ? trans ? ldmatrix_all<4, true> : ldmatrix_all<4, false>
                               : trans       ? ldmatrix_all<2, true>
                                             : ldmatrix_all<2, false>;
    warp_collective(name, compute, row, d, where);
}

void mma(Mma type, float* d, const uint32_t* a, const uint32_t* b, Where where) {
    const MmaIn in{a, b};
    if (type == Mma::tf32) warp_collective("mma_tf32", mma_tf32_all, &in, d, where);
    else if (type == Mma::bf16) warp_collective("mma_bf16", mma_bf16_all, &in, d, where);
    else warp_collective("mma_fp16", mma_fp16_all, &in, d, where);
}

void mma_sp(Mma type, float* d, const uint32_t* a, const uint32_t* b, uint32_t metadata, int selector, Where where) {
    const int lane = running.current->index % warp_size;
    if (lane % 4 / 2 == selector) {  // the metadata of these lanes is used
        for (int bit = 0; bit < 32; bit += 4) {
            const uint32_t nibble = metadata >> bit & 15;
            if (type == Mma::tf32 ? nibble != 0x4 && nibble != 0xe : (nibble & 3) >= nibble >> 2)
                fail(prefix(where) + "mma_sp's metadata " + std::to_string(nibble) + " are not in order");
        }
    }
    const MmaIn in{a, b, metadata, selector};
    if (type == Mma::tf32) warp_collective("mma_sp_tf32", mma_sp_tf32_all, &in, d, where);
    else if (type == Mma::bf16) warp_collective("mma_sp_bf16", mma_sp_bf16_all, &in, d, where);
    else warp_collective("mma_sp_fp16", mma_sp_fp16_all, &in, d, where);
}

}  // namespace fastconv::emulator
