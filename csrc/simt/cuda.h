// The wrappers of simt.h on a GPU: each is one instruction, or CUDA's own function.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "shared_limit.h"
#include "types.h"

namespace fastconv::simt {

FASTCONV_DEVICE int thread() { return int(threadIdx.x); }
FASTCONV_DEVICE int block_size() { return int(blockDim.x); }
FASTCONV_DEVICE int lane() { return int(threadIdx.x % 32); }
FASTCONV_DEVICE int warp() { return int(threadIdx.x / 32); }
FASTCONV_DEVICE Dim block() { return {int(blockIdx.x), int(blockIdx.y), int(blockIdx.z)}; }
FASTCONV_DEVICE Dim grid() { return {int(gridDim.x), int(gridDim.y), int(gridDim.z)}; }

// --- shared memory ----------------------------------------------------------------------------------

// Shared carves a block's dynamic shared memory into parts aligned to 16 bytes. On the host it hands out null pointers
// and counts: the host runs a kernel's own carving to learn how many bytes to launch with.
class Shared {
public:
    Shared() = default;
    FASTCONV_DEVICE explicit Shared(char* memory) : memory_(memory) {}
    template <class T>
    FASTCONV_HOST_DEVICE T* take(int count) {
#ifdef __CUDA_ARCH__
        char* const part = memory_ + bytes_;
#else
        char* const part = nullptr;
#endif
        bytes_ += (int(sizeof(T)) * count + 15) / 16 * 16;
        return reinterpret_cast<T*>(part);
    }
    FASTCONV_HOST_DEVICE int bytes() const { return bytes_; }

private:
    char* memory_ = nullptr;
    int bytes_ = 0;
};

FASTCONV_DEVICE Shared block_shared() {
    extern __shared__ __align__(128) char fastconv_shared_memory[];
    return Shared(fastconv_shared_memory);
}

// --- communication between threads ------------------------------------------------------------------

FASTCONV_DEVICE void sync() { __syncthreads(); }
FASTCONV_DEVICE void sync_warp() { __syncwarp(); }

constexpr unsigned all_lanes = 0xffffffffu;

template <class T>
FASTCONV_DEVICE T shuffle(T value, int source) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    return __shfl_sync(all_lanes, value, source);
}
template <class T>
FASTCONV_DEVICE T shuffle_xor(T value, int mask) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    return __shfl_xor_sync(all_lanes, value, mask);
}
template <class T>
FASTCONV_DEVICE T shuffle_down(T value, int distance) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8);
    return __shfl_down_sync(all_lanes, value, unsigned(distance));
}
FASTCONV_DEVICE uint32_t ballot(bool value) { return __ballot_sync(all_lanes, value); }

// --- memory -----------------------------------------------------------------------------------------

template <int N, class T>
FASTCONV_DEVICE Pack<T, N> load(const T* from) {
    return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, class T>
FASTCONV_DEVICE void store(T* to, const Pack<T, N>& pack) {
    *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

FASTCONV_DEVICE uint32_t shared_address(const void* shared) { return uint32_t(__cvta_generic_to_shared(shared)); }

// Copies N elements of 4, 8 or 16 bytes in all. Writes zeros and reads nothing if not `valid`.
template <int N, class T>
FASTCONV_DEVICE void copy_async(T* to, const T* from, bool valid = true) {
    constexpr int bytes = N * int(sizeof(T));
    static_assert(bytes == 4 || bytes == 8 || bytes == 16);
    const int from_bytes = valid ? bytes : 0;
    if constexpr (bytes == 16)
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
                     "r"(from_bytes)
                     : "memory");
    else
        asm volatile("cp.async.ca.shared.global [%0], [%1], %3, %2;" ::"r"(shared_address(to)), "l"(from),
                     "r"(from_bytes), "n"(bytes)
                     : "memory");
}
FASTCONV_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending>
FASTCONV_DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// --- bits -------------------------------------------------------------------------------------------

// Shifts by any number; by all bits or more it gives 0.
FASTCONV_DEVICE uint32_t shift_left(uint32_t value, uint32_t by) {
    uint32_t result;
    asm("shl.b32 %0, %1, %2;" : "=r"(result) : "r"(value), "r"(by));
    return result;
}
FASTCONV_DEVICE uint64_t shift_left(uint64_t value, uint32_t by) {
    uint64_t result;
    asm("shl.b64 %0, %1, %2;" : "=l"(result) : "l"(value), "r"(by));
    return result;
}
// Byte i of the result is the byte of b:a that nibble i of `order`, 0 to 7, selects. a holds bytes 0 to 3.
FASTCONV_DEVICE uint32_t permute(uint32_t a, uint32_t b, uint32_t order) { return __byte_perm(a, b, order); }

// --- tensor cores -----------------------------------------------------------------------------------

FASTCONV_DEVICE void ldmatrix_x4(uint32_t (&d)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared_address(row))
                 : "memory");
}
FASTCONV_DEVICE void ldmatrix_x4_trans(uint32_t (&d)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3])
                 : "r"(shared_address(row))
                 : "memory");
}
FASTCONV_DEVICE void ldmatrix_x2(uint32_t (&d)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(d[0]), "=r"(d[1])
                 : "r"(shared_address(row))
                 : "memory");
}
FASTCONV_DEVICE void ldmatrix_x2_trans(uint32_t (&d)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(d[0]), "=r"(d[1])
                 : "r"(shared_address(row))
                 : "memory");
}

FASTCONV_DEVICE uint32_t to_tf32(float value) {
    uint32_t result;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
    return result;
}

FASTCONV_DEVICE void mma_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FASTCONV_DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
FASTCONV_DEVICE void mma_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// mma.sp with ordered metadata, as ours is. Plain mma.sp accepts it, too, but is slower on some GPUs. It is the only
// one before CUDA 12.5 (PTX 8.5).
#if __CUDACC_VER_MAJOR__ * 100 + __CUDACC_VER_MINOR__ >= 1205
#define FASTCONV_MMA_SP "mma.sp::ordered_metadata.sync.aligned"
#else
#define FASTCONV_MMA_SP "mma.sp.sync.aligned"
#endif

// a is 16 x 32 elements, or 16 x 16 of TF32, and half of them are kept: two of four neighbors, of TF32 one of two.
// Nibble (row, chunk of neighbors) of the metadata says which; for TF32 it is 0x4 or 0xe. Lane 4 * (row % 8) + 2 *
// selector + chunk / 4 holds it at bit 16 * (row / 8) + 4 * (chunk % 4).
template <int selector>
FASTCONV_DEVICE void mma_sp_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
    asm volatile(FASTCONV_MMA_SP
                 ".m16n8k16.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]),
                   "r"(metadata), "n"(selector));
}
template <int selector>
FASTCONV_DEVICE void mma_sp_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
    asm volatile(FASTCONV_MMA_SP
                 ".m16n8k32.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]),
                   "r"(metadata), "n"(selector));
}
template <int selector>
FASTCONV_DEVICE void mma_sp_fp16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[4], uint32_t metadata) {
    asm volatile(FASTCONV_MMA_SP
                 ".m16n8k32.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9, %10, %11}, {%0, %1, %2, %3}, %12, %13;"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(b[2]), "r"(b[3]),
                   "r"(metadata), "n"(selector));
}

#undef FASTCONV_MMA_SP

// --- launch -----------------------------------------------------------------------------------------

using Stream = void*;  // a cudaStream_t

// Starts a kernel on the current device. Returns "" or CUDA's error text.
template <class... Parameters, class... Arguments>
std::string launch(void (*kernel)(Parameters...), Dim grid, int threads, int shared_bytes, Stream stream,
                   Arguments... arguments) {
    if (shared_bytes > 48 * 1024) {  // more than the default limit must be requested
        const std::string error = allow_shared(reinterpret_cast<const void*>(kernel));
        if (!error.empty()) return error;
    }
    kernel<<<dim3(unsigned(grid.x), unsigned(grid.y), unsigned(grid.z)), unsigned(threads), size_t(shared_bytes),
             static_cast<cudaStream_t>(stream)>>>(static_cast<Parameters>(arguments)...);
    const cudaError_t status = cudaGetLastError();
    return status == cudaSuccess ? "" : cudaGetErrorString(status);
}

}  // namespace fastconv::simt
