// Chooses an implementation by cost, by exactness or by name.
#include "choose.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <utility>

#include "layouts.h"

namespace fastconv {

namespace {

constexpr int any_alignment = 1, best_alignment = 16;

template <class Args>
double cost_of(const Implementation<Args>& implementation, const Conv2dProblem& problem) {
    return implementation.cost ? implementation.cost(problem) : 0;
}

// Returns null if no implementation takes the problem.
template <class Args>
const Implementation<Args>* cheapest(const Implementations<Args>& list, const Conv2dProblem& problem, bool exact) {
    const Implementation<Args>* best = nullptr;
    double least = 0;
    for (const auto& implementation : list) {
        if ((exact && !implementation.exact) || !implementation.takes(problem)) continue;
        const double cost = cost_of(implementation, problem);
        if (!best || cost < least) best = &implementation, least = cost;
        if (least == 0) break;  // none costs less
    }
    return best;
}

template <class Args>
const Implementation<Args>* named(const Implementations<Args>& list, const Conv2dProblem& problem,
                                  const std::string& name) {
    for (const auto& implementation : list)
        if (implementation.name == name && implementation.takes(problem)) return &implementation;
    return nullptr;
}

Conv2dProblem with_layouts(Conv2dProblem problem, bool channels_inside, int alignment) {
    problem.layouts = dense_layouts(problem.conv, problem.dtype, channels_inside, alignment);
    return problem;
}

// The same problem with every tensor's channels in aligned packs.
Conv2dProblem with_any_packs(Conv2dProblem problem) {
    const Layout packed = {true, best_alignment};
    problem.layouts = {packed, packed, packed, packed};
    return problem;
}

template <class Args>
std::string names_of(const Implementations<Args>& list) {
    std::vector<std::string> names;
    for (const auto& implementation : list)
        if (std::find(names.begin(), names.end(), implementation.name) == names.end())
            names.push_back(implementation.name);
    std::string text;
    for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
    return text;
}

}  // namespace

template <class Args>
const Implementation<Args>& choose(const Implementations<Args>& list, const Conv2dProblem& problem,
                                   const std::string& name) {
    const bool exact = name == "highest";
    const bool free =
        exact || name.empty() || (!named(list, problem, name) && named(list, with_any_packs(problem), name));
    if (const auto* found = free ? cheapest(list, problem, exact) : named(list, problem, name)) return *found;
    for (const auto& implementation : list)
        if (implementation.name == name)
            throw std::invalid_argument("implementation " + name + " does not take this problem");
    throw std::invalid_argument("implementation must be one of " + names_of(list) + ", got " + name);
}

// Implementations look at whether channels are inside, and then at whether packs are aligned.
template <class Args>
size_t workspace_of(const Implementations<Args>& list, const Conv2dProblem& problem, const std::string& name) {
    size_t most = 0;
    for (const auto& [channels_inside, alignment] :
         {std::pair(false, any_alignment), std::pair(true, any_alignment), std::pair(true, best_alignment)}) {
        const Conv2dProblem one = with_layouts(problem, channels_inside, alignment);
        most = std::max(most, choose(list, one, name).workspace(one));
    }
    return most;
}

template <class Args>
std::vector<std::string> names_by_cost(const Implementations<Args>& list, const Conv2dProblem& problem) {
    std::vector<std::pair<double, std::string>> found;
    for (const auto& implementation : list)
        if (implementation.takes(problem)) found.emplace_back(cost_of(implementation, problem), implementation.name);
    std::stable_sort(found.begin(), found.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<std::string> names;
    for (const auto& [cost, name] : found) names.push_back(name);
    return names;
}

template <class Args>
std::vector<std::string> passed_over(const Implementations<Args>& list, const Conv2dProblem& problem,
                                     const Implementation<Args>& chosen, const std::string& name) {
    const auto cycles = [&](const Implementation<Args>& implementation) {
        return std::to_string(std::llround(cost_of(implementation, problem)));
    };
    std::vector<std::string> lines;
    for (const auto& implementation : list) {
        if (&implementation == &chosen) break;
        std::string why;
        if (!implementation.takes(problem)) why = std::string("takes only ") + implementation.condition;
        else if (name == "highest" && !implementation.exact) why = "not exact";
        else if (name == chosen.name) why = name + " was asked for";
        else why = "costs " + cycles(implementation) + " cycles, " + chosen.name + " " + cycles(chosen);
        lines.push_back(std::string(implementation.name) + ": " + why);
    }
    return lines;
}

#define FASTCONV_INSTANTIATE(Args)                                                                        \
    template const Implementation<Args>& choose(const Implementations<Args>&, const Conv2dProblem&,       \
                                                const std::string&);                                      \
    template size_t workspace_of(const Implementations<Args>&, const Conv2dProblem&, const std::string&); \
    template std::vector<std::string> names_by_cost(const Implementations<Args>&, const Conv2dProblem&);  \
    template std::vector<std::string> passed_over(const Implementations<Args>&, const Conv2dProblem&,     \
                                                  const Implementation<Args>&, const std::string&);
FASTCONV_INSTANTIATE(FpropArgs)
FASTCONV_INSTANTIATE(DgradArgs)
FASTCONV_INSTANTIATE(WgradArgs)

}  // namespace fastconv
