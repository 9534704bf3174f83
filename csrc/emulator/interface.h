// The C interface of an emulated library, called by Python's ctypes. Every entry takes an array of pointers and one of
// numbers, so one Python call serves all. It returns null, or the text of an error.
#pragma once

#include <cstdint>
#include <string>

#define FASTCONV_ENTRY(name)                                                                                   \
    extern "C" __attribute__((visibility("default"))) const char* name([[maybe_unused]] void* const* pointers, \
                                                                       [[maybe_unused]] const int64_t* numbers)

namespace fastconv {

// The text that an entry returns. It lives until the next call.
inline const char* entry_result(std::string text) {
    static thread_local std::string kept;
    kept = std::move(text);
    return kept.empty() ? nullptr : kept.c_str();
}

}  // namespace fastconv
