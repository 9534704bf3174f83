// A prepared call repeats an entry's call for other addresses, without the checks. Checks take longer than a small
// operation.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <vector>

#include "../common/geometry.h"

namespace fastconv::python {

// A Member is one tensor of a call.
template <class Args>
struct Member {
    const char* name;
    Tensor Args::* tensor;
};
template <class Args>
using Members = std::vector<Member<Args>>;

class PreparedCall {
public:
    // `members` has the order of the entry's arguments. launch(args, workspace, stream) makes the call. Operations
    // without a workspace ignore `workspace`; CPUs ignore `stream`.
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

    // Takes the entry's tensors in its order (or their addresses), the workspace, then the stream. Tensors have the
    // sizes, strides and dtypes of the first call. Where the first call had None or an empty tensor, the argument is
    // ignored.
    void operator()(const pybind11::args& given) const;

private:
    struct Slot {
        const char* name;
        size_t alignment;  // 0: None or empty in the first call
    };
    std::vector<Slot> slots_;
    bool has_stream_;
    std::function<void(const std::vector<void*>&, void*)> run_;

    void add(const char* name, const Tensor& tensor);
};

void add_prepared_call(pybind11::module_&);

}  // namespace fastconv::python
