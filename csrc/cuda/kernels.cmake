# The CUDA kernels, for nvcc (CMakeLists.txt) and for the emulator (tests/cuda/emulated).
set(cuda_kernel_sources conv2d_dgrad.cu conv2d_few_channels_fprop.cu conv2d_few_channels_wgrad.cu conv2d_fprop.cu
    conv2d_fprop_pool.cu conv2d_wgrad.cu conv2d_wgrad_sum.cu conv2d_wgrad_pool2x2.cu dispatch.cpp max_pool2d.cu
    relu.cu)
