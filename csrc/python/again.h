// What the convolutions' entries give back: the call with all of its checks done, to be made again for other addresses.
// Checking takes longer than a small convolution.
#pragma once

#include <pybind11/pybind11.h>

#include <functional>
#include <vector>

#include "../common/geometry.h"

namespace fastconv::python {

// The tensors of a call, in the order of its entry's arguments.
template <class Args>
struct Member {
    const char* name;
    Tensor Args::* tensor;
};
template <class Args>
inline const std::vector<Member<Args>> members;
template <>
inline const std::vector<Member<FpropArgs>> members<FpropArgs> = {{"x", &FpropArgs::x},
                                                                  {"w", &FpropArgs::w},
                                                                  {"bias", &FpropArgs::bias},
                                                                  {"y", &FpropArgs::y},
                                                                  {"code", &FpropArgs::code}};
template <>
inline const std::vector<Member<DgradArgs>> members<DgradArgs> = {
    {"dy", &DgradArgs::dy}, {"code", &DgradArgs::code}, {"w", &DgradArgs::w}, {"dx", &DgradArgs::dx}};
template <>
inline const std::vector<Member<WgradArgs>> members<WgradArgs> = {{"x", &WgradArgs::x},
                                                                  {"dy", &WgradArgs::dy},
                                                                  {"code", &WgradArgs::code},
                                                                  {"dw", &WgradArgs::dw},
                                                                  {"dbias", &WgradArgs::dbias}};

class Again {
public:
    // launch(args, workspace, stream) makes the call; there is a stream on GPUs only.
    template <class Args, class Launch>
    Again(const Args& args, bool has_workspace, bool has_stream, Launch launch) : has_stream_(has_stream) {
        for (const auto& member : members<Args>) add(member.name, args.*member.tensor);
        slots_.push_back({"workspace", size_t(has_workspace)});
        run_ = [args, launch](const std::vector<void*>& addresses, uintptr_t stream) {
            Args changed = args;
            for (size_t i = 0; i + 1 < addresses.size(); ++i) (changed.*members<Args>[i].tensor).data = addresses[i];
            launch(changed, addresses.back(), stream);
        };
    }

    // The addresses of the entry's tensors in its order and that of the workspace, then the stream. What lies there has
    // the sizes, strides and dtypes of the first call; where that had nothing (None, or empty) addresses are ignored.
    void operator()(const pybind11::args& given) const;

private:
    struct Slot {
        const char* name;
        size_t alignment;  // 0: nothing there
    };
    std::vector<Slot> slots_;
    bool has_stream_;
    std::function<void(const std::vector<void*>&, uintptr_t)> run_;

    void add(const char* name, const Tensor& tensor);
};

void add_again(pybind11::module_&);

}  // namespace fastconv::python
