// A SourceLine is the place of an access in a kernel: a return address recorded by the compiler's instrumentation, or
// the line that a wrapper passed on, in one number.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime.h"

namespace fastconv::emulator {

using SourceLine = uint64_t;

inline SourceLine source_line_of(const void* return_address) { return SourceLine(uintptr_t(return_address)) - 1; }
SourceLine source_line_of(Where where);

// "file:line" of each: the innermost inlined line that is not in a wrapper (csrc/simt, csrc/emulator).
std::vector<std::string> name_source_lines(const std::vector<SourceLine>& source_lines);
std::string name_source_line(SourceLine source_line);
std::vector<std::string> name_functions(const std::vector<const void*>& functions);  // of one library, demangled

}  // namespace fastconv::emulator
