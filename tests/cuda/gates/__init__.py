"""Static gates: what nvcc made of the CUDA kernels, read from the built module without a GPU.

`code.kernels()` takes the machine code out of the installed `fastconv._C` (what ships is what is
looked at, and nothing is compiled a second time), `loops` finds a kernel's loops in it, `declared`
has the table of what each kernel's main loop must hold.
"""
