// The call of an operation with one kernel per device and no workspace: relu or max_pool2d.
#pragma once

#include <pybind11/stl.h>

#include "prepared_call.h"
#include "tensors.h"
#include "types.h"
#include "verbose.h"

namespace fastconv::python {

// Makes the call with run(args, where) and prepares it for other addresses. text() names its problem.
template <class Device, class Args, class Run, class Text>
PreparedCall run_plain(const Device& device, const char* operation, const Args& args, const Members<Args>& members,
                       const Run& run, const Text& text) {
    const auto launch = [device, operation, run, said = verbose_level ? text() : ""](const Args& now, void*,
                                                                                     void* stream) {
        run_kernel(
            device, operation, stream, [&](auto where) { run(now, where); },
            [&] { return CallText{operation, said, "plain"}; });
    };
    launch(args, nullptr, device.stream());
    return PreparedCall(args, members, false, Device::has_stream, launch);
}

template <class Device, class Entry, class... Arguments>
void def_plain(pybind11::module_& m, const char* name, Entry entry, const Arguments&... arguments) {
    const std::string full = std::string(Device::prefix) + name;
    std::apply([&](const auto&... tail) { m.def(full.c_str(), entry, arguments..., tail...); }, Device::call_tail());
}

}  // namespace fastconv::python
