"""Static gates check the compiled CUDA kernels in the built module, without a GPU.

`code.kernels()` extracts the machine code of the installed `fastconv._C`, so the shipped code is
checked and nothing is compiled again. `loops` finds a kernel's loops in it. `declared` has the
table of instructions that each kernel's main loop must hold.
"""
