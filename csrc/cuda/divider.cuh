// Divider divides by a number known before the launch, with one multiplication.
#pragma once

#include <cstdint>

#include "../simt/simt.h"

namespace fastconv::cuda {

// n / divisor for 0 <= n < 2^31. The multiplier is 2^(31 + l) / divisor, rounded up, with 2^l >= divisor. Rounding adds
// less than 2^-31 of the multiplier, which changes no quotient of n < 2^31.
struct Divider {
    uint32_t multiplier = 1u << 31;
    int shift = 31, divisor = 1;

    Divider() = default;
    FASTCONV_HOST_DEVICE explicit Divider(int by) : divisor(by > 1 ? by : 1) {
        while (int64_t(1) << (shift - 31) < divisor) ++shift;
        multiplier = uint32_t(((uint64_t(1) << shift) + uint64_t(divisor) - 1) / uint64_t(divisor));
    }
    FASTCONV_HOST_DEVICE int divide(int n) const { return int(uint64_t(uint32_t(n)) * multiplier >> shift); }
    // Divides n by the divisor: returns the quotient and leaves the remainder in n.
    FASTCONV_HOST_DEVICE int split(int& n) const {
        const int quotient = divide(n);
        n -= quotient * divisor;
        return quotient;
    }
};

}  // namespace fastconv::cuda
