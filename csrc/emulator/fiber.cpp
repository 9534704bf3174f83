// Fibers by hand-written stack switches (fiber.h).
#include "fiber.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace fastconv::emulator {

namespace {

constexpr size_t stack_bytes = size_t(256) << 10, guard_bytes = size_t(16) << 10;
constexpr int most_fibers = 1024;

// One range of addresses for all stacks, so that holds() is one comparison. The system maps pages at first use.
char* stacks() {
    static char* const memory = [] {
        void* const p = mmap(nullptr, most_fibers * stack_bytes, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            std::perror("emulator: stacks");
            std::abort();
        }
        return static_cast<char*>(p);
    }();
    return memory;
}

}  // namespace

Fiber::Fiber(int index) : stack_(stacks() + size_t(index) * stack_bytes) {
    mprotect(stack_, guard_bytes, PROT_NONE);  // an overflow faults here and does not reach the next stack
}

bool Fiber::holds(const void* p) { return uintptr_t(p) - uintptr_t(stacks()) < most_fibers * stack_bytes; }

#ifdef FASTCONV_EMULATOR_UCONTEXT

void Fiber::start(void (*entry)()) {
    getcontext(&self_);
    self_.uc_stack.ss_sp = stack_ + guard_bytes;
    self_.uc_stack.ss_size = stack_bytes - guard_bytes;
    self_.uc_link = nullptr;
    makecontext(&self_, entry, 0);
}

#define FASTCONV_SWITCH(from, to) swapcontext(&(from), &(to))

#else

// Saves the callee-saved registers on the old stack and restores them from the new one.
extern "C" __attribute__((visibility("hidden"))) void fastconv_switch_stacks(void** from, void* to);
asm(R"(
    .text
    .hidden fastconv_switch_stacks
    .globl fastconv_switch_stacks
    .type fastconv_switch_stacks, @function
fastconv_switch_stacks:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size fastconv_switch_stacks, .-fastconv_switch_stacks
)");

void Fiber::start(void (*entry)()) {
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(stack_ + guard_bytes, stack_bytes - guard_bytes);  // frames never returned from
    fake_ = nullptr;
#endif
    void** const top = reinterpret_cast<void**>(stack_ + stack_bytes);
    top[-1] = nullptr;  // entry()'s return address; it aligns the stack as after a call
    top[-2] = reinterpret_cast<void*>(entry);
    for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
    self_ = top - 8;
}

#define FASTCONV_SWITCH(from, to) fastconv_switch_stacks(&(from), to)

#endif

void Fiber::resume() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&resumer_fake_, stack_ + guard_bytes, stack_bytes - guard_bytes);
#endif
    FASTCONV_SWITCH(resumer_, self_);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(resumer_fake_, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&fake_, resumer_stack_, resumer_size_);
#endif
    FASTCONV_SWITCH(self_, resumer_);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(fake_, &resumer_stack_, &resumer_size_);
#endif
}

void Fiber::begin() {
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &resumer_stack_, &resumer_size_);
#endif
}

}  // namespace fastconv::emulator
