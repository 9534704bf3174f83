// The instruction set in use, and each direction's list of implementations in it (kernel_set.cpp).
#include "dispatch.h"

#include <isas.h>  // FASTCONV_FOR_EACH_ISA, made by CMakeLists.txt

#include <cstdlib>
#include <stdexcept>

namespace fastconv::cpu {

// Defined by kernel_set.cpp, once per instruction set that CMakeLists.txt lists.
#define FASTCONV_DECLARE_SET(isa) \
    namespace isa {               \
    extern const KernelSet set;   \
    }
FASTCONV_FOR_EACH_ISA(FASTCONV_DECLARE_SET)

std::vector<const KernelSet*> kernel_sets() {
#define FASTCONV_ADDRESS(isa) &isa::set,
    return {FASTCONV_FOR_EACH_ISA(FASTCONV_ADDRESS)};
}

static const KernelSet* pick_set() {
    const auto sets = kernel_sets();
    const char* wanted = std::getenv("FASTCONV_ISA");
    std::string names;
    for (const KernelSet* set : sets) {
        if (wanted ? set->name == std::string(wanted) : set->runs_here()) {
            if (set->runs_here()) return set;
            std::string others;
            for (const KernelSet* other : sets)
                if (other->runs_here()) others += (others.empty() ? "" : ", ") + std::string(other->name);
            throw std::invalid_argument("FASTCONV_ISA: this CPU does not run " + std::string(wanted) + ", but " +
                                        others);
        }
        names += (names.empty() ? "" : ", ") + std::string(set->name);
    }
    throw std::invalid_argument("FASTCONV_ISA must be one of " + names + ", got " + wanted);
}

const KernelSet& kernels() {
    static const KernelSet* set = pick_set();
    return *set;
}

// The implementations of the set in use, then the plain one, which takes all remaining problems.
template <class Args>
static Implementations<Args> with_plain(const Implementation<Args>* const* set, const Implementation<Args>& plain) {
    Implementations<Args> list;
    for (; *set; ++set) list.push_back(**set);
    list.push_back(plain);
    return list;
}

template <>
const Implementations<FpropArgs>& implementations() {
    static const auto list = with_plain(kernels().fprop, plain_fprop);
    return list;
}
template <>
const Implementations<DgradArgs>& implementations() {
    static const auto list = with_plain(kernels().dgrad, plain_dgrad);
    return list;
}
template <>
const Implementations<WgradArgs>& implementations() {
    static const auto list = with_plain(kernels().wgrad, plain_wgrad);
    return list;
}

}  // namespace fastconv::cpu
