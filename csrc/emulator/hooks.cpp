// Hooks on every access to memory, for the race build. -fsanitize=thread inserts a call of one of these functions
// before each access. They replace ThreadSanitizer's runtime, which knows nothing of barriers and blocks and is not
// linked.
#include "counters.h"
#include "shadow.h"
#include "state.h"

namespace fastconv::emulator {

namespace {

void access(const void* p, int bytes, bool write, const void* return_address) {
    if (!running.current || Fiber::holds(p)) return;  // a thread's own variables
    const char* const c = static_cast<const char*>(p);
    if (c >= running.stack_low && c < running.stack_high) return;  // the kernel's arguments
    shadow_access(p, bytes, write, source_line_of(return_address));
    count_access(p, bytes, write, source_line_of(return_address));
}

}  // namespace

}  // namespace fastconv::emulator

#define FASTCONV_HOOK extern "C" __attribute__((visibility("hidden"))) void
#define FASTCONV_HOOKS(bytes)                                                     \
    FASTCONV_HOOK __tsan_read##bytes(void* p) {                                   \
        fastconv::emulator::access(p, bytes, false, __builtin_return_address(0)); \
    }                                                                             \
    FASTCONV_HOOK __tsan_write##bytes(void* p) {                                  \
        fastconv::emulator::access(p, bytes, true, __builtin_return_address(0));  \
    }                                                                             \
    FASTCONV_HOOK __tsan_unaligned_read##bytes(void* p) {                         \
        fastconv::emulator::access(p, bytes, false, __builtin_return_address(0)); \
    }                                                                             \
    FASTCONV_HOOK __tsan_unaligned_write##bytes(void* p) {                        \
        fastconv::emulator::access(p, bytes, true, __builtin_return_address(0));  \
    }                                                                             \
    FASTCONV_HOOK __tsan_volatile_read##bytes(void* p) {                          \
        fastconv::emulator::access(p, bytes, false, __builtin_return_address(0)); \
    }                                                                             \
    FASTCONV_HOOK __tsan_volatile_write##bytes(void* p) {                         \
        fastconv::emulator::access(p, bytes, true, __builtin_return_address(0));  \
    }

FASTCONV_HOOKS(1)
FASTCONV_HOOKS(2)
FASTCONV_HOOKS(4)
FASTCONV_HOOKS(8)
FASTCONV_HOOKS(16)

FASTCONV_HOOK __tsan_read_range(void* p, size_t bytes) {
    fastconv::emulator::access(p, int(bytes), false, __builtin_return_address(0));
}
FASTCONV_HOOK __tsan_write_range(void* p, size_t bytes) {
    fastconv::emulator::access(p, int(bytes), true, __builtin_return_address(0));
}
FASTCONV_HOOK __tsan_vptr_read(void**) {}
FASTCONV_HOOK __tsan_vptr_update(void**, void*) {}
FASTCONV_HOOK __tsan_func_entry(void*) {}
FASTCONV_HOOK __tsan_func_exit() {}
FASTCONV_HOOK __tsan_init() {}
// The guard of a static in host code; kernels have none.
extern "C" __attribute__((visibility("hidden"))) unsigned char __tsan_atomic8_load(const volatile unsigned char* p,
                                                                                   int) {
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}
