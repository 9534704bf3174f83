// check() throws an error's text as an exception.
#pragma once

#include <stdexcept>
#include <string>

namespace fastconv::cuda {

// Throws std::runtime_error unless the text is empty.
inline void check(const std::string& error) {
    if (!error.empty()) throw std::runtime_error(error);
}

}  // namespace fastconv::cuda
