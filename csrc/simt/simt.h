// simt is everything that a CUDA kernel may use beyond plain C++: a small set of wrappers with two implementations.
//
// cuda.h implements them in PTX, ../emulator/simt.h lets g++ compile and run the very same kernel. There is no asm, no
// <<<>>> and no CUDA header anywhere else.
//
//   FASTCONV_KERNEL, FASTCONV_KERNEL_BOUNDS(threads, blocks), FASTCONV_DEVICE, FASTCONV_HOST_DEVICE,
//   FASTCONV_UNROLL, FASTCONV_NO_UNROLL                       the loop that follows
//   thread() block_size() lane() warp() block() grid()          indices; blocks are one-dimensional
//   Shared: block_shared(), take<T>(count), bytes()             dynamic shared memory
//   sync() sync_warp()                                          barriers
//   shuffle(v, lane) shuffle_xor(v, mask) shuffle_down(v, n) ballot(bool)   all 32 lanes take part
//   load<N>(p) store(p, pack)                                   N elements at once
//   shift_left(bits, by) permute(a, b, order)                   by any number; any four bytes of two words
//   copy_async<N>(shared, global, valid) copy_commit() copy_wait<pending groups>()
//   ldmatrix_x4 ldmatrix_x4_trans ldmatrix_x2 ldmatrix_x2_trans
//   mma_tf32 mma_bf16 mma_fp16, to_tf32                         d += a * b in float
//   mma_sp_tf32 mma_sp_bf16 mma_sp_fp16 <selector>              the same, half of a's elements zero and left out
//   launch(kernel, grid, threads, shared bytes, stream, arguments...)
#pragma once

#include "types.h"
#ifdef FASTCONV_EMULATOR
#include "../emulator/simt.h"
#else
#include "cuda.h"
#endif
