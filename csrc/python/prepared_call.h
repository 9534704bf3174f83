// A prepared call is what an operation's entry gives back: its call with all checks done, to be made for other
// addresses. Checking takes longer than a small operation does.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <vector>

#include "../common/geometry.h"

namespace fastconv::python {

// A tensor of a call.
template <class Args>
struct Member {
    const char* name;
    Tensor Args::* tensor;
};
template <class Args>
using Members = std::vector<Member<Args>>;

class PreparedCall {
public:
    // `members` in the order of the entry's arguments. launch(args, workspace, stream) makes the call;
    // operations without a workspace ignore it, CPUs the stream.
    template <class Args, class Launch>
    PreparedCall(const Args& args, const Members<Args>& members, bool has_workspace, bool has_stream, Launch launch)
        : has_stream_(has_stream) {
        for (const auto& member : members) add(member.name, args.*member.tensor);
        slots_.push_back({"workspace", size_t(has_workspace)});
        run_ = [args, members, launch](const std::vector<void*>& addresses, void* stream) {
            Args changed = args;
            for (size_t i = 0; i < members.size(); ++i) (changed.*members[i].tensor).data = addresses[i];
            launch(changed, addresses.back(), stream);
        };
    }

    // The entry's tensors in its order (or their addresses), the workspace, then the stream. They have the sizes,
    // strides and dtypes of the first call; where that had nothing (None, or empty) anything is ignored.
    void operator()(const pybind11::args& given) const;

private:
    struct Slot {
        const char* name;
        size_t alignment;  // 0: nothing there
    };
    std::vector<Slot> slots_;
    bool has_stream_;
    std::function<void(const std::vector<void*>&, void*)> run_;

    void add(const char* name, const Tensor& tensor);
};

void add_prepared_call(pybind11::module_&);

}  // namespace fastconv::python
