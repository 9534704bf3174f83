// Fiber is a stack for one emulated thread, and the switch to and from it.
#pragma once

#include <cstddef>

#if !defined(__x86_64__) && !defined(FASTCONV_EMULATOR_UCONTEXT)
#define FASTCONV_EMULATOR_UCONTEXT
#endif
#ifdef FASTCONV_EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

namespace fastconv::emulator {

class Fiber {
public:
    explicit Fiber(int index);
    Fiber(const Fiber&) = delete;
    // Makes the next resume() begin entry(), which never returns. Whatever ran before is abandoned.
    void start(void (*entry)());
    // Runs the fiber until it suspends.
    void resume();
    // Returns to the caller of resume().
    void suspend();
    // Must be called first in entry().
    void begin();

    // Whether p lies in the stack of any fiber.
    static bool holds(const void* p);

private:
    char* stack_;
#ifdef FASTCONV_EMULATOR_UCONTEXT
    ucontext_t self_, resumer_;
#else
    void *self_ = nullptr, *resumer_ = nullptr;  // stack pointers
#endif
    // The two stacks, as AddressSanitizer needs them.
    void *fake_ = nullptr, *resumer_fake_ = nullptr;
    const void* resumer_stack_ = nullptr;
    size_t resumer_size_ = 0;
};

}  // namespace fastconv::emulator
