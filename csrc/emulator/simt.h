// The wrappers of simt.h for g++: each calls the runtime with the line of the call, so that reports can name it.
#pragma once

#include <array>
#include <string>
#include <tuple>
#include <type_traits>

#include "../simt/types.h"
#include "runtime.h"

namespace fastconv::simt {

using emulator::here;
using emulator::Where;

inline int thread() { return emulator::thread(); }
inline int block_size() { return emulator::block_size(); }
inline int lane() { return emulator::thread() % 32; }
inline int warp() { return emulator::thread() / 32; }
inline Dim block() { return emulator::block(); }
inline Dim grid() { return emulator::grid(); }

// --- shared memory ----------------------------------------------------------------------------------

// Shared as in cuda.h, with a red zone around every part. A zone is as long as all banks together, so a part lies in
// the same banks as on a GPU.
class Shared {
public:
    Shared() = default;
    explicit Shared(bool in_kernel) : in_kernel_(in_kernel) {}
    template <class T>
    T* take(int count, Where where = here()) {
        const int offset = used_ + emulator::red_zone * ++parts_;
        used_ += (int(sizeof(T)) * count + 15) / 16 * 16;
        if (!in_kernel_) return nullptr;
        return reinterpret_cast<T*>(emulator::take_shared(offset, int(sizeof(T)) * count, where));
    }
    int bytes() const { return used_ + emulator::red_zone * (parts_ + 1); }

private:
    bool in_kernel_ = false;
    int used_ = 0, parts_ = 0;
};

inline Shared block_shared() { return Shared(true); }

// --- communication between threads ------------------------------------------------------------------

inline void sync(Where where = here()) { emulator::block_barrier(where); }
inline void sync_warp(Where where = here()) { emulator::warp_barrier(where); }

// Returns lane `source`'s value, or the lane's own if `source` is no lane.
template <class T>
T shuffle_from(const char* name, T value, int source, Where where) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = emulator::shuffle(name, bits, source, where);
    memcpy(&value, &bits, sizeof(T));
    return value;
}
template <class T>
T shuffle(T value, int source, Where where = here()) {
    return shuffle_from("shuffle", value, source & 31, where);
}
template <class T>
T shuffle_xor(T value, int mask, Where where = here()) {
    return shuffle_from("shuffle_xor", value, lane() ^ mask, where);
}
template <class T>
T shuffle_down(T value, int distance, Where where = here()) {
    return shuffle_from("shuffle_down", value, lane() + distance, where);
}
inline uint32_t ballot(bool value, Where where = here()) { return emulator::ballot(value, where); }

// --- memory -----------------------------------------------------------------------------------------

template <int N, class T>
Pack<T, N> load(const T* from, Where where = here()) {
    Pack<T, N> pack;
    emulator::load(&pack, from, int(sizeof(pack)), where);
    return pack;
}
template <int N, class T>
void store(T* to, const Pack<T, N>& pack, Where where = here()) {
    emulator::store(to, &pack, int(sizeof(pack)), where);
}

template <int N, class T>
void copy_async(T* to, const T* from, bool valid = true, Where where = here()) {
    constexpr int bytes = N * int(sizeof(T));
    static_assert(bytes == 4 || bytes == 8 || bytes == 16);
    emulator::copy_async(to, from, bytes, valid, where);
}
inline void copy_commit() { emulator::copy_commit(); }
template <int pending>
void copy_wait() {
    emulator::copy_wait(pending);
}

// --- bits -------------------------------------------------------------------------------------------

inline uint32_t shift_left(uint32_t value, uint32_t by) { return by < 32 ? value << by : 0; }
inline uint64_t shift_left(uint64_t value, uint32_t by) { return by < 64 ? value << by : 0; }
inline uint32_t permute(uint32_t a, uint32_t b, uint32_t order) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) result |= uint32_t(bytes >> 8 * (order >> 4 * i & 7) & 255) << 8 * i;
    return result;
}

// --- tensor cores -----------------------------------------------------------------------------------

inline void ldmatrix_x4(uint32_t (&d)[4], const void* row, Where where = here()) {
    emulator::ldmatrix("ldmatrix_x4", d, row, 4, false, where);
}
inline void ldmatrix_x4_trans(uint32_t (&d)[4], const void* row, Where where = here()) {
    emulator::ldmatrix("ldmatrix_x4_trans", d, row, 4, true, where);
}
inline void ldmatrix_x2(uint32_t (&d)[2], const void* row, Where where = here()) {
    emulator::ldmatrix("ldmatrix_x2", d, row, 2, false, where);
}
inline void ldmatrix_x2_trans(uint32_t (&d)[2], const void* row, Where where = here()) {
    emulator::ldmatrix("ldmatrix_x2_trans", d, row, 2, true, where);
}

// Rounds to a mantissa of 10 bits, ties away from zero.
inline uint32_t to_tf32(float value) {
    const uint32_t bits = float_bits(value);
    if ((bits & 0x7f800000u) == 0x7f800000u) return (bits & 0x7fffffu) ? 0x7fffffffu : bits;
    return (bits + 0x1000u) & 0xffffe000u;
}

inline void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = here()) {
    emulator::mma(emulator::Mma::tf32, d, a, b, where);
}
inline void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = here()) {
    emulator::mma(emulator::Mma::bf16, d, a, b, where);
}
inline void mma_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], Where where = here()) {
    emulator::mma(emulator::Mma::fp16, d, a, b, where);
}

template <int selector>
void mma_sp_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata,
                 Where where = here()) {
    emulator::mma_sp(emulator::Mma::tf32, d, a, b, metadata, selector, where);
}
template <int selector>
void mma_sp_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata,
                 Where where = here()) {
    emulator::mma_sp(emulator::Mma::bf16, d, a, b, metadata, selector, where);
}
template <int selector>
void mma_sp_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata,
                 Where where = here()) {
    emulator::mma_sp(emulator::Mma::fp16, d, a, b, metadata, selector, where);
}

// --- launch -----------------------------------------------------------------------------------------

using Stream = void*;

// Runs the whole grid. Returns "" or a report of the kernel's error.
template <class... Parameters, class... Arguments>
std::string launch(void (*kernel)(Parameters...), Dim grid, int threads, int shared_bytes, Stream,
                   Arguments... arguments) {
    struct Call {
        void (*kernel)(Parameters...);
        std::tuple<std::decay_t<Parameters>...> arguments;
    } call{kernel, {static_cast<Parameters>(arguments)...}};
    const std::string error = emulator::run_grid(
        grid, threads, shared_bytes,
        [](void* p) { std::apply(static_cast<Call*>(p)->kernel, static_cast<Call*>(p)->arguments); }, &call);
    emulator::count_launch(reinterpret_cast<const void*>(kernel), threads);
    return error;
}

}  // namespace fastconv::simt
