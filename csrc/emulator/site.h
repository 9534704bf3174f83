// Where in a kernel an access stands: a return address that the compiler's instrumentation left, or
// the line that a wrapper passed on. One number for both.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime.h"

namespace fastconv::emulator {

using Site = uint64_t;

inline Site site_of(const void* return_address) { return Site(uintptr_t(return_address)) - 1; }
Site site_of(Where where);

// "file:line" of each, of the outermost-but-kernel function: wrappers of simt/ do not count.
std::vector<std::string> name_sites(const std::vector<Site>& sites);
std::string name_site(Site site);
std::vector<std::string> name_functions(const std::vector<const void*>& functions);  // of one library, demangled

}  // namespace fastconv::emulator
