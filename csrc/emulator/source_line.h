// Where in a kernel an access stands: a return address that the compiler's instrumentation left, or
// the line that a wrapper passed on. One number for both.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime.h"

namespace fastconv::emulator {

using SourceLine = uint64_t;

inline SourceLine source_line_of(const void* return_address) { return SourceLine(uintptr_t(return_address)) - 1; }
SourceLine source_line_of(Where where);

// "file:line" of each, of the outermost-but-kernel function: wrappers of simt/ do not count.
std::vector<std::string> name_source_lines(const std::vector<SourceLine>& source_lines);
std::string name_source_line(SourceLine source_line);
std::vector<std::string> name_functions(const std::vector<const void*>& functions);  // of one library, demangled

}  // namespace fastconv::emulator
