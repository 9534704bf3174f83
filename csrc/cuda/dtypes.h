// From a DType to a template's type, and from that to the one that sums are made in.
#pragma once

#include <string>

#include "../common/geometry.h"
#include "../simt/simt.h"

namespace fastconv::cuda {

// Calls run(a value of the floating-point type that `dtype` names).
template <class Run>
std::string with_type(DType dtype, const Run& run) {
    switch (dtype) {
        case DType::float32: return run(float());
        case DType::float64: return run(double());
        case DType::float16: return run(simt::half());
        case DType::bfloat16: return run(simt::bfloat16());
        default: return "no CUDA kernel for integers: float32, float64, float16 and bfloat16 have them";
    }
}

template <class T>
struct AccumulatorOf {
    using type = float;
};
template <>
struct AccumulatorOf<double> {
    using type = double;
};
// What values of T are compared and added in.
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

}  // namespace fastconv::cuda
