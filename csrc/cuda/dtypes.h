// The C++ type of a DType, and the accumulator type of each.
#pragma once

#include <stdexcept>

#include "../common/geometry.h"
#include "../simt/simt.h"

namespace fastconv::cuda {

// Calls run(a value of the floating-point type that `dtype` names) and returns its result.
template <class Run>
auto with_type(DType dtype, const Run& run) {
    switch (dtype) {
        case DType::float32: return run(float());
        case DType::float64: return run(double());
        case DType::float16: return run(simt::half());
        case DType::bfloat16: return run(simt::bfloat16());
        default: throw std::invalid_argument("no CUDA kernel for integers");
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
// The type in which values of T are compared and added.
template <class T>
using Accumulator = typename AccumulatorOf<T>::type;

}  // namespace fastconv::cuda
