// The entries of the CPU kernels. The last arguments are the number of threads and, for convolutions, the name of an
// implementation ("": the first that applies).
#include <pthread.h>
#include <pybind11/stl.h>

#include <atomic>
#include <stdexcept>

#include "../cpu/dispatch.h"
#include "arguments.h"
#include "entries.h"

namespace py = pybind11;

namespace fastconv::python {
namespace {

constexpr Kernels here = Kernels::cpu;
constexpr size_t alignment = 64;  // of a workspace

// libgomp's threads do not survive fork, and starting new ones in the child hangs: one thread there.
std::atomic<bool> in_forked_child{false};

int usable_threads(int64_t threads) {
    if (threads < 1) throw std::invalid_argument("threads must be at least 1, got " + std::to_string(threads));
    return in_forked_child ? 1 : int(std::min<int64_t>(threads, 1024));
}

template <class Args, class Call>
Again run(const std::vector<cpu::Implementation<Args>>& list, const Members<Args>& members, const Call& call,
          const py::tuple& workspace, const std::string& name) {
    const auto implementation = cpu::choose(list, call.problem, name);
    const size_t needed = implementation.workspace(call.problem);
    const auto launch = [problem = call.problem, implementation](const Args& args, void* space, uintptr_t) {
        Conv2dProblem now = problem;
        now.threads = usable_threads(problem.threads);
        py::gil_scoped_release release;
        implementation.run(now, args, aligned(space, alignment));
    };
    launch(call.args, workspace_address(workspace, needed, alignment), 0);
    return Again(call.args, members, needed > 0, false, launch);
}

Again conv2d_fprop(const py::tuple& x, const py::tuple& w, const OptionalBuffer& bias, const py::tuple& y,
                   const OptionalBuffer& code, const py::tuple& conv, const OptionalTuple& pool, bool relu,
                   const py::tuple& workspace, int64_t threads, const std::string& implementation) {
    return run(cpu::fprop_implementations(), fprop_members,
               fprop_call(here, usable_threads(threads), x, w, bias, y, code, conv, pool, relu), workspace,
               implementation);
}

Again conv2d_dgrad(const py::tuple& dy, const OptionalBuffer& code, const py::tuple& w, const py::tuple& dx,
                   const py::tuple& conv, const OptionalTuple& pool, const py::tuple& workspace, int64_t threads,
                   const std::string& implementation) {
    return run(cpu::dgrad_implementations(), dgrad_members,
               dgrad_call(here, usable_threads(threads), dy, code, w, dx, conv, pool), workspace, implementation);
}

Again conv2d_wgrad(const py::tuple& x, const py::tuple& dy, const OptionalBuffer& code, const OptionalBuffer& dw,
                   const OptionalBuffer& dbias, const py::tuple& w_sizes, const py::tuple& conv,
                   const OptionalTuple& pool, const py::tuple& workspace, int64_t threads,
                   const std::string& implementation) {
    return run(cpu::wgrad_implementations(), wgrad_members,
               wgrad_call(here, usable_threads(threads), x, dy, code, dw, dbias, w_sizes, conv, pool), workspace,
               implementation);
}

// function(the list of implementations of a direction)
template <class Function>
auto with_list(const std::string& direction, const Function& function) {
    if (direction == "fprop") return function(cpu::fprop_implementations());
    if (direction == "dgrad") return function(cpu::dgrad_implementations());
    if (direction == "wgrad") return function(cpu::wgrad_implementations());
    throw std::invalid_argument("direction must be fprop, dgrad or wgrad, got " + direction);
}

size_t conv2d_workspace(const std::string& direction, int64_t dtype, const py::tuple& x_sizes, const py::tuple& w_sizes,
                        const py::tuple& y_sizes, const py::tuple& conv, const OptionalTuple& pool, bool relu,
                        int64_t threads, const std::string& name) {
    const auto problem =
        workspace_call(here, usable_threads(threads), dtype, x_sizes, w_sizes, y_sizes, conv, pool, relu);
    return with_list(direction, [&](const auto& list) {
        return padded_workspace(cpu::choose(list, problem, name).workspace(problem), alignment);
    });
}

std::vector<std::string> implementations(const std::string& direction) {
    return with_list(direction, [](const auto& list) {
        std::vector<std::string> names;
        for (const auto& implementation : list) names.push_back(implementation.name);
        return names;
    });
}

// An operation without a workspace: run(args, threads).
template <class Args, class Run>
Again run_plain(const Args& args, const Members<Args>& members, int64_t threads, const Run& run) {
    const auto launch = [threads, run](const Args& now, void*, uintptr_t) {
        const int usable = usable_threads(threads);
        py::gil_scoped_release release;
        run(now, usable);
    };
    launch(args, nullptr, 0);
    return Again(args, members, false, false, launch);
}

Again relu_fprop(const py::tuple& x, const py::tuple& y, const OptionalBuffer& mask, int64_t threads) {
    const ReluCall call = relu_fprop_call(here, x, y, mask);
    return run_plain(call.args, relu_fprop_members, threads, [count = call.count](const ReluArgs& a, int usable) {
        cpu::kernels().relu_fprop(a.from.dtype, a.from.data, a.to.data, static_cast<uint8_t*>(a.mask.data), count,
                                  usable);
    });
}

Again relu_bprop(const py::tuple& dy, const py::tuple& mask, const py::tuple& dx, int64_t threads) {
    const ReluCall call = relu_bprop_call(here, dy, mask, dx);
    return run_plain(call.args, relu_bprop_members, threads, [count = call.count](const ReluArgs& a, int usable) {
        cpu::kernels().relu_bprop(a.from.dtype, a.from.data, static_cast<const uint8_t*>(a.mask.data), a.to.data, count,
                                  usable);
    });
}

Again max_pool2d_fprop(const py::tuple& x, const py::tuple& y, const OptionalBuffer& code, const py::tuple& pool,
                       int64_t threads) {
    const MaxPool2dCall call = max_pool2d_fprop_call(here, x, y, code, pool);
    return run_plain(call.args, max_pool2d_fprop_members, threads,
                     [pool = call.pool](const MaxPool2dArgs& a, int usable) {
                         cpu::kernels().max_pool2d_fprop(a.from, a.to, a.code, pool, usable);
                     });
}

Again max_pool2d_bprop(const py::tuple& dy, const py::tuple& code, const py::tuple& dx, const py::tuple& pool,
                       int64_t threads) {
    const MaxPool2dCall call = max_pool2d_bprop_call(here, dy, code, dx, pool);
    return run_plain(call.args, max_pool2d_bprop_members, threads,
                     [pool = call.pool](const MaxPool2dArgs& a, int usable) {
                         cpu::kernels().max_pool2d_bprop(a.from, a.code, a.to, pool, usable);
                     });
}

}  // namespace

void add_cpu_entries(py::module_& m) {
    pthread_atfork(nullptr, nullptr, [] { in_forked_child = true; });
    cpu::kernels();  // a wrong FASTCONV_ISA fails the import, not some later call

    m.def("conv2d_workspace", conv2d_workspace, py::arg("direction"), py::arg("dtype"), py::arg("x_sizes"),
          py::arg("w_sizes"), py::arg("y_sizes"), py::arg("conv"), py::arg("pool"), py::arg("relu"), py::arg("threads"),
          py::arg("implementation") = "");
    m.def("conv2d_fprop", conv2d_fprop, py::arg("x"), py::arg("w"), py::arg("bias"), py::arg("y"), py::arg("code"),
          py::arg("conv"), py::arg("pool"), py::arg("relu"), py::arg("workspace"), py::arg("threads"),
          py::arg("implementation") = "");
    m.def("conv2d_dgrad", conv2d_dgrad, py::arg("dy"), py::arg("code"), py::arg("w"), py::arg("dx"), py::arg("conv"),
          py::arg("pool"), py::arg("workspace"), py::arg("threads"), py::arg("implementation") = "");
    m.def("conv2d_wgrad", conv2d_wgrad, py::arg("x"), py::arg("dy"), py::arg("code"), py::arg("dw"), py::arg("dbias"),
          py::arg("w_sizes"), py::arg("conv"), py::arg("pool"), py::arg("workspace"), py::arg("threads"),
          py::arg("implementation") = "");
    m.def("relu_fprop", relu_fprop, py::arg("x"), py::arg("y"), py::arg("mask"), py::arg("threads"));
    m.def("relu_bprop", relu_bprop, py::arg("dy"), py::arg("mask"), py::arg("dx"), py::arg("threads"));
    m.def("max_pool2d_fprop", max_pool2d_fprop, py::arg("x"), py::arg("y"), py::arg("code"), py::arg("pool"),
          py::arg("threads"));
    m.def("max_pool2d_bprop", max_pool2d_bprop, py::arg("dy"), py::arg("code"), py::arg("dx"), py::arg("pool"),
          py::arg("threads"));
    m.def("implementations", implementations, py::arg("direction"));
}

}  // namespace fastconv::python
