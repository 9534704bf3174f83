// Markers of kernel functions for nvcc. For g++ they are ordinary functions.
#pragma once

#ifdef FASTCONV_EMULATOR
#define FASTCONV_KERNEL void
#define FASTCONV_KERNEL_BOUNDS(threads, blocks) void
#define FASTCONV_DEVICE inline
#define FASTCONV_HOST_DEVICE inline
#define FASTCONV_UNROLL
#define FASTCONV_NO_UNROLL
#else
#define FASTCONV_KERNEL __global__ void
#define FASTCONV_KERNEL_BOUNDS(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define FASTCONV_DEVICE __device__ __forceinline__
#define FASTCONV_HOST_DEVICE __host__ __device__ __forceinline__
#define FASTCONV_UNROLL _Pragma("unroll")
#define FASTCONV_NO_UNROLL _Pragma("unroll 1")
#endif
