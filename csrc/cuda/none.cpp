// A build without nvcc: the same functions, saying so.
#include "../simt/device.h"
#include "kernels.h"

namespace fastconv {

static const char* const why = "this build has no CUDA kernels";

namespace simt {

DeviceCount device_count() { return {0, {why}}; }
std::string make_current(int) { return why; }
Answer runs_on(int) { return {why}; }

}  // namespace simt

namespace cuda {

std::vector<std::string> conv2d_fprop_variants(const Conv2dProblem&) { return {}; }
std::vector<std::string> conv2d_dgrad_variants(const Conv2dProblem&) { return {}; }
std::vector<std::string> conv2d_wgrad_variants(const Conv2dProblem&) { return {}; }
size_t conv2d_fprop_workspace(const Conv2dProblem&) { return 0; }
size_t conv2d_dgrad_workspace(const Conv2dProblem&) { return 0; }
size_t conv2d_wgrad_workspace(const Conv2dProblem&) { return 0; }
std::string conv2d_fprop(const Conv2dProblem&, const FpropArgs&, void*, simt::Stream) { return why; }
std::string conv2d_dgrad(const Conv2dProblem&, const DgradArgs&, void*, simt::Stream) { return why; }
std::string conv2d_wgrad(const Conv2dProblem&, const WgradArgs&, void*, simt::Stream) { return why; }
std::string relu_fprop(DType, const void*, void*, uint8_t*, int64_t, simt::Stream) { return why; }
std::string relu_bprop(DType, const void*, const uint8_t*, void*, int64_t, simt::Stream) { return why; }
std::string max_pool2d_fprop(const Tensor&, const Tensor&, const Tensor&, const Pool2d&, simt::Stream) { return why; }
std::string max_pool2d_bprop(const Tensor&, const Tensor&, const Tensor&, const Pool2d&, simt::Stream) { return why; }

}  // namespace cuda

}  // namespace fastconv
