// Shared memory, the accesses that go through wrappers, and asynchronous copies.
#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "counters.h"
#include "shadow.h"
#include "state.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#endif

namespace fastconv::emulator {

namespace {

constexpr int most_shared_bytes = 227 << 10;         // per block on sm_90
constexpr int shared_range = most_shared_bytes * 2;  // room for red zones

struct Part {
    int begin, end;
};

alignas(red_zone) char shared_memory[shared_range];
int launch_bytes;
std::vector<Part> parts;  // taken by the block

}  // namespace

bool prepare_shared(int bytes) {
    launch_bytes = bytes;
    return bytes >= 0 && bytes <= shared_range;
}

void clear_shared() {
    parts.clear();
#ifdef __SANITIZE_ADDRESS__
    __asan_unpoison_memory_region(shared_memory, shared_range);
#endif
    std::memset(shared_memory, 0xff, size_t(launch_bytes));  // NaN
#ifdef __SANITIZE_ADDRESS__
    __asan_poison_memory_region(shared_memory, shared_range);
#endif
}

char* take_shared(int offset, int bytes, Where where) {
    if (bytes < 0 || offset + (bytes + 15) / 16 * 16 + red_zone > launch_bytes)
        fail(prefix(where) + "takes more shared memory than the launch gave");
    const bool taken = std::any_of(parts.begin(), parts.end(),
                                   [&](Part part) { return part.begin == offset && part.end == offset + bytes; });
    if (!taken) {
        parts.push_back({offset, offset + bytes});
        int total = 0;
        for (const Part part : parts) total = std::max(total, part.end);
        if (total > most_shared_bytes + int(parts.size()) * red_zone)
            fail(prefix(where) + "takes more shared memory than a block can have");
#ifdef __SANITIZE_ADDRESS__
        __asan_unpoison_memory_region(shared_memory + offset, size_t(bytes));
#endif
    }
    return shared_memory + offset;
}

int taken_shared() {
    int bytes = 0;
    for (const Part part : parts) bytes += (part.end - part.begin + 15) / 16 * 16;
    return bytes;
}

bool in_shared(const void* p) { return uintptr_t(p) - uintptr_t(shared_memory) < shared_range; }

bool in_part(const void* p, int bytes) {
    const int offset = int(static_cast<const char*>(p) - shared_memory);
    return std::any_of(parts.begin(), parts.end(),
                       [&](Part part) { return part.begin <= offset && offset + bytes <= part.end; });
}

// Checks an access through a wrapper. In the race build, hooks.cpp sees accesses without a wrapper.
void check_access(const void* p, int bytes, bool write, Where where) {
    const char* const verb = write ? "write" : "read";
    if (uintptr_t(p) % unsigned(bytes) != 0)
        fail(prefix(where) + "misaligned " + verb + " of " + std::to_string(bytes) + " bytes by " +
             name_of(*running.current));
    if (in_shared(p) && !in_part(p, bytes))
        fail(prefix(where) + verb + " out of bounds of shared memory by " + name_of(*running.current));
#ifdef __SANITIZE_ADDRESS__
    if (__asan_region_is_poisoned(const_cast<void*>(p), size_t(bytes)))
        fail(prefix(where) + verb + " out of bounds of global memory by " + name_of(*running.current));
#endif
#ifdef FASTCONV_EMULATOR_RACE
    shadow_access(p, bytes, write, source_line_of(where));
    count_access(p, bytes, write, source_line_of(where));
#endif
}

void load(void* to, const void* from, int bytes, Where where) {
    check_access(from, bytes, false, where);
    std::memcpy(to, from, size_t(bytes));
}

void store(void* to, const void* from, int bytes, Where where) {
    check_access(to, bytes, true, where);
    std::memcpy(to, from, size_t(bytes));
}

namespace {

void perform(const Copy& copy) {
    if (copy.valid) std::memcpy(copy.to, copy.from, size_t(copy.bytes));
    else std::memset(copy.to, 0, size_t(copy.bytes));
}

}  // namespace

void copy_async(void* to, const void* from, int bytes, bool valid, Where where) {
    Thread& thread = *running.current;
    if (!in_shared(to)) fail(prefix(where) + "copy_async writes outside shared memory");
    if (valid && in_shared(from)) fail(prefix(where) + "copy_async reads from shared memory");
    if (valid) check_access(from, bytes, false, where);
    check_access(to, bytes, true, where);
#ifdef FASTCONV_EMULATOR_RACE
    shadow_copy_begins(to, bytes);
#endif
    const Copy copy{to, from, bytes, valid, thread.groups, where};
    if (!settings.late_copies) perform(copy);
    thread.copies.push_back(copy);
}

void copy_commit() { ++running.current->groups; }

void copy_wait(int pending) {
    Thread& thread = *running.current;
    const auto waited = [&](const Copy& copy) { return copy.group < thread.groups - pending; };
    for (const Copy& copy : thread.copies) {
        if (!waited(copy)) continue;
        if (settings.late_copies) perform(copy);
#ifdef FASTCONV_EMULATOR_RACE
        shadow_copy_ends(copy.to, copy.bytes, source_line_of(copy.where));
#endif
    }
    thread.copies.erase(std::remove_if(thread.copies.begin(), thread.copies.end(), waited), thread.copies.end());
}

}  // namespace fastconv::emulator
