// Entries of every emulated library: settings, counters and memory.
#include "interface.h"

#include <cstdlib>

#include "counters.h"
#include "state.h"

using namespace fastconv;
using namespace fastconv::emulator;

FASTCONV_ENTRY(emulator_configure) {
    settings.schedule = Schedule(numbers[0]);
    settings.seed = unsigned(numbers[1]);
    settings.late_copies = numbers[2] != 0;
    settings.count = numbers[3] != 0;
    return nullptr;
}

FASTCONV_ENTRY(emulator_take_counters) { return entry_result(take_counters()); }

// Memory of exactly this size, aligned as GPU allocators align it, so that AddressSanitizer detects its end.
FASTCONV_ENTRY(emulator_allocate) {
    void* p = nullptr;
    if (posix_memalign(&p, 256, size_t(numbers[0])) != 0) return "out of memory";
    *static_cast<void**>(pointers[0]) = p;
    return nullptr;
}

FASTCONV_ENTRY(emulator_free) {
    std::free(pointers[0]);
    return nullptr;
}
