// The one way from an error's text to an exception.
#pragma once

#include <stdexcept>
#include <string>

namespace fastconv::cuda {

// Throws where CUDA or a kernel has something against a launch.
inline void check(const std::string& error) {
    if (!error.empty()) throw std::runtime_error(error);
}

}  // namespace fastconv::cuda
