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
            if (!set->runs_here())
                throw std::invalid_argument("FASTCONV_ISA: this CPU does not run " + std::string(wanted));
            return set;
        }
        names += (names.empty() ? "" : ", ") + std::string(set->name);
    }
    throw std::invalid_argument("FASTCONV_ISA must be one of " + names + ", got " + wanted);
}

const KernelSet& kernels() {
    static const KernelSet* set = pick_set();
    return *set;
}

std::vector<Implementation<FpropArgs>> fprop_implementations() {
    return {kernels().depthwise_fprop, kernels().winograd_fprop, kernels().direct_fprop, plain_fprop};
}
std::vector<Implementation<DgradArgs>> dgrad_implementations() {
    return {kernels().depthwise_dgrad, kernels().winograd_dgrad, kernels().direct_dgrad, kernels().live_dgrad,
            plain_dgrad};
}
std::vector<Implementation<WgradArgs>> wgrad_implementations() {
    return {kernels().depthwise_wgrad, kernels().winograd_wgrad, kernels().dense_wgrad, kernels().live_wgrad,
            plain_wgrad};
}

template <class Args>
Implementation<Args> choose(const std::vector<Implementation<Args>>& list, const Conv2dProblem& problem,
                            const std::string& name) {
    std::string names;
    for (const auto& implementation : list) {
        const bool any = name.empty() || (name == "highest" && implementation.exact);
        if (any ? implementation.applies(problem) : implementation.name == name) {
            if (!implementation.applies(problem))
                throw std::invalid_argument("implementation " + name + " does not take this problem");
            return implementation;
        }
        names += (names.empty() ? "" : ", ") + std::string(implementation.name);
    }
    throw std::invalid_argument("implementation must be one of " + names + ", got " + name);
}

template Implementation<FpropArgs> choose(const std::vector<Implementation<FpropArgs>>&, const Conv2dProblem&,
                                          const std::string&);
template Implementation<DgradArgs> choose(const std::vector<Implementation<DgradArgs>>&, const Conv2dProblem&,
                                          const std::string&);
template Implementation<WgradArgs> choose(const std::vector<Implementation<WgradArgs>>&, const Conv2dProblem&,
                                          const std::string&);

}  // namespace fastconv::cpu
