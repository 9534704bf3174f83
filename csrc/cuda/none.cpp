// These functions replace the CUDA kernels in a build without nvcc and report that there are none.
#include <stdexcept>

#include "../simt/device.h"
#include "dispatch.h"
#include "kernels.h"

namespace fastconv {

static const char* const why = "this build has no CUDA kernels";

namespace simt {

DeviceCount device_count() { return {0, {why}}; }
std::string make_current(int) { return why; }
Answer runs_on(int) { return {why}; }
Timer* start_timer(Stream) { return nullptr; }
double stop_timer(Timer*) { return -1; }

}  // namespace simt

namespace cuda {

template <class Args>
static const Implementations<Args>& empty_list() {
    static const Implementations<Args> list;
    return list;
}

template <>
const Implementations<FpropArgs>& implementations() {
    return empty_list<FpropArgs>();
}
template <>
const Implementations<DgradArgs>& implementations() {
    return empty_list<DgradArgs>();
}
template <>
const Implementations<WgradArgs>& implementations() {
    return empty_list<WgradArgs>();
}
std::string refuse(const Conv2dProblem&) { return why; }

void relu_fprop(DType, const void*, void*, uint8_t*, int64_t, simt::Stream) { throw std::runtime_error(why); }
void relu_bprop(DType, const void*, const uint8_t*, void*, int64_t, simt::Stream) { throw std::runtime_error(why); }
void max_pool2d_fprop(const Tensor&, const Tensor&, const Tensor&, const Pool2d&, simt::Stream) {
    throw std::runtime_error(why);
}
void max_pool2d_bprop(const Tensor&, const Tensor&, const Tensor&, const Pool2d&, simt::Stream) {
    throw std::runtime_error(why);
}

}  // namespace cuda

}  // namespace fastconv
