// The limits of the convolution kernels, which count pixels, taps and blocks in 32 bits. Only offsets into memory have
// 64.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>

namespace fastconv::cuda {

struct Count {
    const char* what;
    int64_t value;
};
constexpr int64_t most_counted = (int64_t(1) << 31) - 1024;  // a tile more still fits
constexpr int64_t most_reached = (int64_t(1) << 30) - 1;     // places in an image, padding included

// Returns "" or a message with the first count that is too large.
inline std::string refuse(std::initializer_list<Count> counts, int64_t most) {
    for (const Count& count : counts)
        if (count.value > most)
            return std::string("conv2d on CUDA: ") + count.what + " = " + std::to_string(count.value) +
                   " is not supported: at most " + std::to_string(most);
    return "";
}

}  // namespace fastconv::cuda
