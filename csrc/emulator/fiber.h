// A stack of its own for every emulated thread, and the switch between them.
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
    // The next resume() begins entry(), which never returns. What ran before is forgotten.
    void start(void (*entry)());
    // Runs it until it suspends.
    void resume();
    // Back to whoever resumed it.
    void suspend();
    // To be called first in entry().
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
    // What AddressSanitizer wants to know of the two stacks.
    void *fake_ = nullptr, *resumer_fake_ = nullptr;
    const void* resumer_stack_ = nullptr;
    size_t resumer_size_ = 0;
};

}  // namespace fastconv::emulator
