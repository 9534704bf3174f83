// dgrad of dense gradients by a direct forward kernel: one convolution for each group and each phase of the stride
// (dgrad_as_fprop.h). Phases that no kernel position reaches are zeros.
#pragma once

#include "dgrad_as_fprop.h"
#include "isa_kernels.h"
#include "pack.h"
#include "parallel.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

constexpr int64_t most_phases = 16;    // each one packs its part of the weights, and dy
constexpr int64_t least_channels = 8;  // of dx: a first layer's three leave vectors half empty

// Calls body(phase, whether a kernel position reaches it) for all phases of dx.
template <class Body>
void each_phase(const Conv2d& conv, const Body& body) {
    for (Phase phase; phase.h < min(conv.stride_h, conv.H); ++phase.h)
        for (phase.w = 0; phase.w < min(conv.stride_w, conv.W); ++phase.w)
            body(phase, phase.rows(conv).count > 0 && phase.columns(conv).count > 0);
}

void clear(const Tensor& dx, int threads) {
    const int64_t H = dx.size[2];
    const auto clear_elements = [&](int64_t at, int64_t count) {
        clear_row(count * element_bytes(dx.dtype), static_cast<uint8_t*>(address(dx, at)));
    };
    parallel_for(threads, dx.size[0] * H, [&](int64_t item, int) {
        const int64_t row = item / H * dx.stride[0] + item % H * dx.stride[2];
        const bool by_pixels = dx.stride[1] == 1;
        const int outer = by_pixels ? 3 : 1, inner = by_pixels ? 1 : 3;
        for (int64_t i = 0; i < dx.size[outer]; ++i) {
            const int64_t at = row + i * dx.stride[outer];
            if (dx.stride[inner] == 1) clear_elements(at, dx.size[inner]);
            else
                for (int64_t j = 0; j < dx.size[inner]; ++j) clear_elements(at + j * dx.stride[inner], 1);
        }
    });
}

// One group's problem.
Conv2dProblem one_group(Conv2dProblem problem) {
    problem.conv.C /= problem.conv.groups, problem.conv.K /= problem.conv.groups;
    problem.conv.groups = 1;
    return problem;
}

// One group's tensors. problem: of one group.
DgradArgs one_group(const Conv2dProblem& problem, DgradArgs args, int64_t group) {
    const Conv2d& conv = problem.conv;
    args.dy = channels_of(args.dy, group * conv.K, conv.K);
    args.dx = channels_of(args.dx, group * conv.C, conv.C);
    args.w.data = address(args.w, group * conv.K * args.w.stride[0]);
    args.w.size[0] = conv.K;
    return args;
}

constexpr const char* dgrad_condition = "gradients without a code, and a stride whose phases the forward kernel takes";

template <const Implementation<FpropArgs>& forward>
struct DirectDgrad {
    static bool takes(const Conv2dProblem& all_groups) {
        if (all_groups.conv.C == 0 || all_groups.conv.K == 0) return false;
        const Conv2dProblem problem = one_group(all_groups);
        const Conv2d& conv = problem.conv;
        if (problem.epilogue.activation != Activation::none) return false;
        const double phases = double(conv.stride_h) * double(conv.stride_w);
        if (phases > most_phases || (phases > 1 && conv.C < least_channels)) return false;
        bool all = true;
        each_phase(
            conv, [&](Phase phase, bool reached) { all &= !reached || forward.takes(dgrad_as_fprop(problem, phase)); });
        return all;
    }

    // Whether each thread takes whole groups, with a workspace of its own. The bits are the same as with shared groups.
    static bool a_group_each(const Conv2dProblem& problem) {
        return problem.threads > 1 && problem.conv.groups >= problem.threads;
    }

    // Of one group.
    static size_t group_workspace(const Conv2dProblem& problem) {
        int64_t most = 0;
        each_phase(problem.conv, [&](Phase phase, bool reached) {
            if (reached) most = max(most, int64_t(forward.workspace(dgrad_as_fprop(problem, phase))));
        });
        return size_t(round_up(most, 64));
    }

    static size_t workspace(const Conv2dProblem& problem) {
        Conv2dProblem part = one_group(problem);
        if (!a_group_each(problem)) return group_workspace(part);
        part.threads = 1;
        return group_workspace(part) * size_t(problem.threads);
    }

    static void run(const Conv2dProblem& problem, const DgradArgs& args, const Launch& launch) {
        bool all = true;
        each_phase(problem.conv, [&](Phase, bool reached) { all &= reached; });
        if (!all) clear(args.dx, problem.threads);
        Conv2dProblem part = one_group(problem);
        const bool each = a_group_each(problem);
        if (each) part.threads = 1;
        const size_t bytes = group_workspace(part);
        parallel_for(each ? problem.threads : 1, problem.conv.groups, [&](int64_t group, int thread) {
            const DgradArgs own = one_group(part, args, group);
            const Launch inner = {static_cast<char*>(launch.workspace) + bytes * size_t(thread), launch.stream};
            each_phase(part.conv, [&](Phase phase, bool reached) {
                if (reached) forward.run(dgrad_as_fprop(part, phase), dgrad_as_fprop(part, own, phase), inner);
            });
        });
    }
};

}  // namespace
}  // namespace fastconv::cpu::FASTCONV_ISA
