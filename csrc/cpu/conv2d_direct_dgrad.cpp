// conv2d gradient of the input for dense gradients and stride 1, by the direct forward kernel (dgrad_as_fprop.h).
#include "dgrad_as_fprop.h"
#include "isa_kernels.h"

namespace fastconv::cpu::FASTCONV_ISA {
namespace {

bool applies(const Conv2dProblem& problem) {
    return problem.epilogue == Epilogue::none && dgrad_as_fprop_applies(problem, direct_fprop.applies);
}

size_t workspace(const Conv2dProblem& problem) { return direct_fprop.workspace(dgrad_as_fprop(problem)); }

void run(const Conv2dProblem& problem, const DgradArgs& args, void* space) {
    direct_fprop.run(dgrad_as_fprop(problem), dgrad_as_fprop(args), space);
}

}  // namespace

extern const Implementation<DgradArgs> direct_dgrad;
const Implementation<DgradArgs> direct_dgrad = {"direct", applies, workspace, run};

}  // namespace fastconv::cpu::FASTCONV_ISA
