# The CUDA kernels, for nvcc (CMakeLists.txt) and for the emulator (tests/emulated/CMakeLists.txt).
set(cuda_kernel_sources conv2d_unmerged.cu max_pool2d.cu relu.cu)
