// From a DType to a template's type.
#pragma once

#include <string>

#include "../common/geometry.h"
#include "../simt/types.h"

namespace fastconv::cuda {

template <class T>
struct Type {
    using type = T;
};

// function(Type<T>()) for the floating-point type that `dtype` names.
template <class Function>
std::string with_type(DType dtype, const Function& function) {
    switch (dtype) {
        case DType::float32: return function(Type<float>());
        case DType::float64: return function(Type<double>());
        case DType::float16: return function(Type<simt::half>());
        case DType::bfloat16: return function(Type<simt::bfloat16>());
        default: return "no kernel for this dtype";
    }
}

}  // namespace fastconv::cuda
