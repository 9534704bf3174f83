// Kernels with one fault each, and beside each the same kernel without it: what the emulator is tested
// with. `broken` chooses; "here: NAME" marks the line that a report has to name, "there: NAME" the
// other one. Each writes a result that the corrected kernel gets right in every order of threads.
#include "../../../csrc/emulator/interface.h"
#include "../../../csrc/simt/simt.h"

#include <type_traits>

namespace {

using namespace fastconv;

constexpr int threads = 64;

struct Tile {
    float *first, *second;
    FASTCONV_HOST_DEVICE explicit Tile(simt::Shared& shared)
        : first(shared.take<float>(threads)), second(shared.take<float>(threads)) {}
};

int tile_bytes() {
    simt::Shared shared;
    const Tile tile(shared);
    return shared.bytes();
}

// y[t] = the sum over two rounds of the neighbor's x.
template <bool broken>
FASTCONV_KERNEL no_barrier_before_overwrite(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    float sum = 0;
    for (int round = 0; round < 2; ++round) {
        tile.first[t] = x[round * threads + t];  // here: no_barrier_before_overwrite
        simt::sync();
        sum += tile.first[(t + 33) % threads];  // there: no_barrier_before_overwrite
        if (!broken) simt::sync();
    }
    y[t] = sum;
}

template <bool broken>
FASTCONV_KERNEL no_barrier_before_read(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    tile.first[t] = 0;
    simt::sync();
    tile.first[t] = x[t];  // there: no_barrier_before_read
    if (!broken) simt::sync();
    y[t] = tile.first[(t + 33) % threads];  // here: no_barrier_before_read
}

template <bool broken>
FASTCONV_KERNEL two_warps_write(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    const int i = broken ? t % 32 : t;
    tile.first[i] = x[t];  // here: two_warps_write
    y[t] = tile.first[i];
}

template <bool broken>
FASTCONV_KERNEL no_sync_warp(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    tile.first[t] = x[t];  // there: no_sync_warp
    if (!broken) simt::sync_warp();
    y[t] = tile.first[t ^ 1];  // here: no_sync_warp
}

// The lanes that read last are of the writer's own warp, and ordered; an earlier one is not.
template <bool broken>
FASTCONV_KERNEL write_after_other_warps_read(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    tile.first[t] = x[t];
    simt::sync();
    y[t] = tile.first[0];  // there: write_after_other_warps_read
    if (broken) simt::sync_warp();
    else simt::sync();
    if (t == 40) tile.first[0] = 0;  // here: write_after_other_warps_read
}

// The last to read is the writer itself.
template <bool broken>
FASTCONV_KERNEL write_after_other_lanes_read(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread(), first = t / 32 * 32;
    tile.first[t] = x[t];
    simt::sync();
    y[t] = tile.first[first];  // there: write_after_other_lanes_read
    if (!broken) simt::sync_warp();
    if (t == first + 31) tile.first[first] = 0;  // here: write_after_other_lanes_read
}

// Neighbors write neighboring bytes; the last of the broken kernel's writes is one too many.
template <bool broken>
FASTCONV_KERNEL bytes_overlap(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    auto* const bytes = reinterpret_cast<uint8_t*>(tile.first);
    for (int i = 0; i < (broken ? 3 : 2); ++i) bytes[2 * t + i] = uint8_t(x[t]);  // here: bytes_overlap
    y[t] = bytes[2 * t];
}

template <bool broken>
FASTCONV_KERNEL global_without_barrier(const float* x, float* y) {
    const int t = simt::thread();
    y[t] = x[t];  // there: global_without_barrier
    if (!broken) simt::sync();
    const float other = y[t ^ 32];  // here: global_without_barrier
    simt::sync();
    y[t] = other;
}

// A shuffle keeps lanes together but orders no memory.
template <bool broken>
FASTCONV_KERNEL shuffle_for_sync_warp(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    tile.first[t] = x[t];  // there: shuffle_for_sync_warp
    const float other = simt::shuffle_xor(x[t], 1);
    if (!broken) simt::sync_warp();
    y[t] = other == tile.first[t ^ 1] ? other : -1.0f;  // here: shuffle_for_sync_warp
}

template <bool broken>
FASTCONV_KERNEL copy_never_waited(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    simt::copy_async<1>(tile.first + t, x + t);  // here: copy_never_waited
    simt::copy_commit();
    if (!broken) simt::copy_wait<0>();
    y[t] = x[t];
}

template <bool broken>
FASTCONV_KERNEL copy_not_committed(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    simt::copy_async<1>(tile.first + t, x + t);  // here: copy_not_committed
    if (!broken) simt::copy_commit();
    simt::copy_wait<0>();
    y[t] = x[t];
}

// Two copies under way, the first is used, then the second: waiting for "all but one" is enough only once.
template <bool broken>
FASTCONV_KERNEL copy_waited_one_short(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    simt::copy_async<1>(tile.first + t, x + t);
    simt::copy_commit();
    simt::copy_async<1>(tile.second + t, x + threads + t);  // there: copy_waited_one_short
    simt::copy_commit();
    simt::copy_wait<1>();
    simt::sync();
    float sum = tile.first[(t + 33) % threads];
    if (broken) simt::copy_wait<1>();
    else simt::copy_wait<0>();
    simt::sync();
    sum += tile.second[(t + 33) % threads];  // here: copy_waited_one_short
    simt::copy_wait<0>();
    y[t] = sum;
}

// Waiting covers the thread's own copies; for those of others it takes a barrier too.
template <bool broken>
FASTCONV_KERNEL copy_without_barrier(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    if (t % 2 == 0) simt::copy_async<2>(tile.first + t, x + t);  // there: copy_without_barrier
    simt::copy_commit();
    simt::copy_wait<0>();
    if (!broken) simt::sync();
    y[t] = tile.first[t];  // here: copy_without_barrier
}

template <bool broken>
FASTCONV_KERNEL shared_out_of_bounds(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    tile.first[t + (broken ? 1 : 0)] = x[t];  // here: shared_out_of_bounds
    y[t] = x[t];
}

template <bool broken>
FASTCONV_KERNEL shared_pack_out_of_bounds(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    if (t < 16 + (broken ? 1 : 0))
        simt::store(tile.first + 4 * t, simt::Pack<float, 4>{});  // here: shared_pack_out_of_bounds
    y[t] = x[t];
}

template <bool broken>
FASTCONV_KERNEL global_out_of_bounds(const float* x, float* y) {
    const int t = simt::thread();
    y[t] = x[2 * t + (broken ? 2 : 0)];  // here: global_out_of_bounds
}

template <bool broken>
FASTCONV_KERNEL global_copy_out_of_bounds(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    const int i = threads + t + (broken ? 1 : 0);
    simt::copy_async<1>(tile.first + t, x + i, broken || i < 2 * threads);  // here: global_copy_out_of_bounds
    simt::copy_commit();
    simt::copy_wait<0>();
    y[t] = tile.first[t];
}

template <bool broken>
FASTCONV_KERNEL local_out_of_bounds(const float* x, float* y) {
    const int t = simt::thread();
    float sums[4] = {};
    const int count = int(x[0]) + (broken ? 4 : 3);       // x[0] is 1
    for (int i = 0; i < count; ++i) sums[i] += x[t + i];  // here: local_out_of_bounds
    y[t] = sums[t % 4];
}

template <bool broken>
FASTCONV_KERNEL divergent_barrier(const float* x, float* y) {
    const int t = simt::thread();
    if (broken && t >= 32) {
        simt::sync();  // there: divergent_barrier
    } else {
        simt::sync();  // here: divergent_barrier
    }
    y[t] = x[t];
}

template <bool broken>
FASTCONV_KERNEL return_before_barrier(const float* x, float* y) {
    const int t = simt::thread();
    if (broken && t == 63) return;
    simt::sync();  // here: return_before_barrier
    y[t] = x[t];
}

template <bool broken>
FASTCONV_KERNEL lanes_missing(const float* x, float* y) {
    const int t = simt::thread();
    float value = x[t];
    if (!broken || simt::lane() < 31) value += simt::shuffle_xor(value, 1);  // here: lanes_missing
    y[t] = value;
}

template <bool broken>
FASTCONV_KERNEL lanes_at_two_lines(const float* x, float* y) {
    const int t = simt::thread();
    float value = x[t];
    if (broken && t % 2) {
        value += simt::shuffle_xor(value, 1);  // there: lanes_at_two_lines
    } else {
        value += simt::shuffle_xor(value, 1);  // here: lanes_at_two_lines
    }
    y[t] = value;
}

template <bool broken>
FASTCONV_KERNEL misaligned_load(const float* x, float* y) {
    const int t = simt::thread();
    const simt::Pack<float, 2> pair = simt::load<2>(x + t + (broken ? 0 : t));  // here: misaligned_load
    y[t] = pair[0] + pair[1];
}

template <bool broken>
FASTCONV_KERNEL misaligned_cast(const float* x, float* y) {
    const int t = simt::thread();
    const auto* pairs = reinterpret_cast<const simt::Pack<float, 2>*>(x + (broken ? 1 : 0));
    y[t] = pairs[t / 2].data[t % 2];  // here: misaligned_cast
}

template <bool broken>
FASTCONV_KERNEL index_overflow(const float* x, float* y) {
    const int t = simt::thread(), large = 1 << 26;
    using Index = std::conditional_t<broken, int, int64_t>;
    const Index i = Index(large) * t;  // here: index_overflow
    y[t] = x[i == 0 ? 0 : 1];
}

// Two blocks write the same word, even the same value.
template <bool broken>
FASTCONV_KERNEL blocks_write(const float* x, float* y) {
    const int t = simt::thread(), b = simt::block().x;
    if (broken || b == 0) y[t] = x[t];  // here: blocks_write
}

template <bool broken>
FASTCONV_KERNEL blocks_read_written(const float* x, float* y) {
    const int t = simt::thread(), b = simt::block().x;
    if (b == 0) y[t] = x[t];                                             // there: blocks_read_written
    if (b == 1 && t == 5 && y[broken ? t : 64 + t] != 0) y[64 + t] = 0;  // here: blocks_read_written
}

template <bool broken>
FASTCONV_KERNEL uninitialized_shared(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    if (!broken || t < 63) tile.first[t] = x[t];
    simt::sync();
    y[t] = tile.first[t];  // here: uninitialized_shared
}

// Shared memory begins anew in every block.
template <bool broken>
FASTCONV_KERNEL shared_of_last_block(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    const int t = simt::thread();
    if (!broken || simt::block().x == 0) tile.first[t] = x[t];
    simt::sync();
    if (simt::block().x == 1) y[t] = tile.first[t];  // here: shared_of_last_block
}

template <bool broken>
FASTCONV_KERNEL too_little_shared(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Tile tile(shared);
    float* const more = broken ? shared.take<float>(64) : tile.second;  // here: too_little_shared
    more[simt::thread()] = x[simt::thread()];
    y[simt::thread()] = more[simt::thread()];
}

// A column of a 32 x 32 tile lies in one bank, of a 32 x 33 tile in all.
struct Square {
    float* tile;
    FASTCONV_HOST_DEVICE explicit Square(simt::Shared& shared) : tile(shared.take<float>(32 * 33)) {}
};

template <bool broken>
FASTCONV_KERNEL bank_conflicts(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Square square(shared);
    constexpr int pitch = broken ? 32 : 33;
    const int lane = simt::lane();
    for (int row = simt::warp(); row < 32; row += 2) square.tile[row * pitch + lane] = x[row * 32 + lane];
    simt::sync();
    for (int row = simt::warp(); row < 32; row += 2)
        y[row * 32 + lane] = square.tile[lane * pitch + row];  // here: bank_conflicts
}

template <bool broken>
FASTCONV_KERNEL ldmatrix_bank_conflicts(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    const Square square(shared);
    constexpr int pitch = broken ? 32 : 36;
    const int t = simt::thread();
    for (int i = t; i < 32 * 33; i += threads) square.tile[i] = 0;
    simt::sync();
    uint32_t d[4];
    const float* const row = square.tile + simt::lane() % 8 * pitch + simt::lane() / 8 * 4;
    simt::ldmatrix_x4(d, row);  // here: ldmatrix_bank_conflicts
    y[t] = x[t] + simt::bits_float(d[0]);
}

template <bool broken>
FASTCONV_KERNEL uncoalesced(const float* x, float* y) {
    const int lane = simt::lane();
    for (int row = simt::warp(); row < 32; row += 2)
        y[row * 32 + lane] = x[broken ? lane * 32 + row : row * 32 + lane];  // here: uncoalesced
}

// All in all more than the 48 KB that need no asking for.
template <bool broken>
FASTCONV_KERNEL much_shared(const float* x, float* y) {
    simt::Shared shared = simt::block_shared();
    float* const large = shared.take<float>(40000 / 4);
    double* const more = shared.take<double>(40000 / 8);
    const int t = simt::thread();
    large[t * 100] = x[t];
    more[t * 50] = x[t];
    y[t] = large[t * 100] + float(more[t * 50]);
}

using Kernel = void (*)(const float*, float*);

const char* run(Kernel fixed, Kernel broken, void* const* pointers, const int64_t* numbers, int blocks, int bytes) {
    return entry_result(simt::launch(numbers[0] ? broken : fixed, {blocks}, threads, bytes, nullptr,
                                     static_cast<const float*>(pointers[0]), static_cast<float*>(pointers[1])));
}

int square_bytes() {
    simt::Shared shared;
    const Square square(shared);
    return shared.bytes();
}

int much_bytes() {
    simt::Shared shared;
    shared.take<float>(40000 / 4);
    shared.take<double>(40000 / 8);
    return shared.bytes();
}

}  // namespace

#define FAULT(name, blocks, bytes) \
    FASTCONV_ENTRY(broken_##name) { return run(name<false>, name<true>, pointers, numbers, blocks, bytes); }

FAULT(no_barrier_before_overwrite, 1, tile_bytes())
FAULT(no_barrier_before_read, 1, tile_bytes())
FAULT(two_warps_write, 1, tile_bytes())
FAULT(no_sync_warp, 1, tile_bytes())
FAULT(write_after_other_warps_read, 1, tile_bytes())
FAULT(write_after_other_lanes_read, 1, tile_bytes())
FAULT(bytes_overlap, 1, tile_bytes())
FAULT(global_without_barrier, 1, 0)
FAULT(shuffle_for_sync_warp, 1, tile_bytes())
FAULT(copy_never_waited, 1, tile_bytes())
FAULT(copy_not_committed, 1, tile_bytes())
FAULT(copy_waited_one_short, 1, tile_bytes())
FAULT(copy_without_barrier, 1, tile_bytes())
FAULT(shared_out_of_bounds, 1, tile_bytes())
FAULT(shared_pack_out_of_bounds, 1, tile_bytes())
FAULT(global_out_of_bounds, 1, 0)
FAULT(global_copy_out_of_bounds, 1, tile_bytes())
FAULT(local_out_of_bounds, 1, 0)
FAULT(divergent_barrier, 1, 0)
FAULT(return_before_barrier, 1, 0)
FAULT(lanes_missing, 1, 0)
FAULT(lanes_at_two_lines, 1, 0)
FAULT(misaligned_load, 1, 0)
FAULT(misaligned_cast, 1, 0)
FAULT(index_overflow, 1, 0)
FAULT(blocks_write, 2, 0)
FAULT(blocks_read_written, 2, 0)
FAULT(uninitialized_shared, 1, tile_bytes())
FAULT(shared_of_last_block, 2, tile_bytes())
FAULT(too_little_shared, 1, tile_bytes())
FAULT(bank_conflicts, 1, square_bytes())
FAULT(ldmatrix_bank_conflicts, 1, square_bytes())
FAULT(uncoalesced, 1, 0)
FAULT(much_shared, 1, much_bytes())
