"""Every entry of `fastconv._C` with wrong arguments: an exception or a result, never a crash.

The CUDA entries are called in the module of emulated kernels, which has the same source.

A child process prints each call before it makes it, so a crash names its call. Addresses and byte
sizes are never larger than the real ones, since the caller must know these.
"""

import inspect
import random

import pytest
import torch

from fastconv import _C
from fastconv.testing import Problem, inputs, kernels

HUGE = [2**30 - 1, 2**30, 2**31, 2**32 + 1, 2**62, 2**63 - 1, 2**63, 2**64, 10**30]
NUMBERS = [0, -1, 1, 2, 3, 7, -(2**31), -(2**63), *HUGE]
WRONG_TYPES = [None, 1.5, "x", b"x", [1, 2], {}, (), ..., float("-inf"), 1j]


def buffer_variants(spec, rng):
    """Wrong forms of a buffer (data_ptr, nbytes, dtype, sizes, strides)."""
    ptr, nbytes, dtype, sizes, strides = spec
    yield (ptr + 1, nbytes - 1, dtype, sizes, strides)
    for bad in (0, -1, 2**64, 2**70, *WRONG_TYPES):
        # Any other integer could be an address.
        yield (bad, nbytes, dtype, sizes, strides)
    for bad in (0, 1, nbytes - 1, nbytes // 2, -1, -nbytes, -(2**63), 2**64, *WRONG_TYPES[:5]):
        yield (ptr, bad, dtype, sizes, strides)
    for bad in (-1, 0, 1, 2, 3, 4, 255, 2**40, 2**64, *WRONG_TYPES):
        yield (ptr, nbytes, bad, sizes, strides)
    for i, name in ((3, sizes), (4, strides)):
        for bad in (*WRONG_TYPES, (), name[:-1], (*name, 1), name[::-1], name * 9, (1,) * 1000):
            yield (*spec[:i], bad, *spec[i + 1 :])
        for place in range(len(name)):
            for bad in (*NUMBERS, name[place] + 1, name[place] * 2, "x", 1.0, None):
                changed = (*name[:place], bad, *name[place + 1 :])
                yield (*spec[:i], changed, *spec[i + 1 :])
    yield (ptr, nbytes, dtype, (0,) * len(sizes), strides)
    yield (ptr, nbytes, dtype, sizes, (0,) * len(strides))
    yield (0, 0, dtype, (0,) * len(sizes), strides)
    yield (ptr, nbytes, dtype, sizes, tuple(-s for s in strides))
    yield spec[:4]
    yield (*spec, 0)
    for _ in range(20):
        yield (ptr, nbytes, dtype, tuple(rng.choice(NUMBERS) for _ in sizes), strides)
        yield (ptr, nbytes, dtype, sizes, tuple(rng.choice(NUMBERS) for _ in strides))


def number_variants(numbers, rng):
    """Wrong forms of a tuple of numbers."""
    for place in range(len(numbers)):
        for bad in (*NUMBERS, "x", 1.5, None):
            yield (*numbers[:place], bad, *numbers[place + 1 :])
    yield from WRONG_TYPES
    yield from (numbers[:-1], (*numbers, 1), list(numbers))
    for _ in range(40):
        yield tuple(rng.choice([*numbers, *NUMBERS]) for _ in numbers)


def variants(value, rng):
    """Wrong forms of any argument."""
    if isinstance(value, tuple) and len(value) == 5 and isinstance(value[3], tuple):
        yield from buffer_variants(value, rng)
        yield from WRONG_TYPES
    elif isinstance(value, tuple):
        yield from number_variants(value, rng)
    elif isinstance(value, bool):
        yield from (not value, *WRONG_TYPES)
    elif isinstance(value, int):
        yield from (*NUMBERS, *WRONG_TYPES)
    elif isinstance(value, str):
        yield from ("", "plain", "fprop", "direct", "winograd", "live", "x" * 10000, "\0", "\udc80")
        yield from WRONG_TYPES
    elif value is None:
        yield from ((), (1,), (0, 0, 0, (), ()), (0, 0, 2, (1,), (1,)), *WRONG_TYPES)


# The texts of the functions above become part of the child's program.
CHILD = """
import importlib.util, random, sys, torch
from fastconv import _C
from fastconv.testing import Problem, codes, inputs, kernels
from fastconv.testing.kernels import pack

problem = Problem.parse(sys.argv[1])
rng = random.Random(int(sys.argv[2]))
alive = []  # what the addresses point to
device, module = "cpu", _C
if len(sys.argv) > 3:
    device = "emulated"
    spec = importlib.util.spec_from_file_location(*sys.argv[3:])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    kernels.modules[device] = module


def new(size, dtype=problem.dtype, layout="nhwc"):
    layout = layout if len(size) == 4 else "nchw"
    tensor = inputs.guarded(size, inputs.strides(size, layout), dtype)
    tensor.zero_()
    alive.append(tensor)
    return pack(tensor)


def workspace(direction):
    needed = kernels.workspace_bytes(direction, problem, "", 2, device)
    return new((needed + 64,), torch.uint8)


pool = problem.pool and problem.pool.spec
if problem.k:
    x, w, y = new(problem.x_size), new(problem.w_size, layout="nchw"), new(problem.y_size)
    bias, dbias = new((problem.k,)), new((problem.k,))
    dw, dx = new(problem.w_size, layout="nchw"), new(problem.x_size)
    code = None
    if problem.relu:
        layout = "nhwc" if pool else "nchw"
        code = new(codes.size(problem, device), torch.uint8, layout)
    common = (problem.conv_spec, pool)
    sizes = ("wgrad", kernels.CODES[problem.dtype], problem.x_size, problem.w_size,
             problem.y_size, *common, problem.relu)
    calls = {
        "conv2d_workspace": (*sizes, 2, ""),
        "conv2d_implementations": (*sizes, 2, True),
        "conv2d_fprop": (x, w, bias, y, code, *common, problem.relu, workspace("fprop"), 2, ""),
        "conv2d_dgrad": (y, code, w, dx, *common, workspace("dgrad"), 2, ""),
        "conv2d_wgrad": (x, y, code, dw, dbias, problem.w_size, *common, workspace("wgrad"), 2, ""),
    }
else:
    x, y, code = new(problem.x_size), new(problem.y_size), new(problem.y_size, torch.uint8)
    flat, flat_y, mask = new((37,)), new((37,)), new((5,), torch.uint8)
    calls = {
        "max_pool2d_fprop": (x, y, code, pool, 2),
        "max_pool2d_bprop": (y, code, x, pool, 2),
        "relu_fprop": (flat, flat_y, mask, 2),
        "relu_bprop": (flat, mask, flat_y, 2),
        "build_info": (),
        "cuda_device_count": (),
        "cuda_why_not_on": (0,),
    }
if device == "emulated":  # instead of threads: device and stream, of convolutions TF32
    of_sizes = ("conv2d_workspace", "conv2d_implementations")
    there = {name: value for name, value in calls.items() if name.startswith("cuda_")}
    for name, arguments in calls.items():
        if "cuda_" + name in dir(module):
            last = 2 if "conv2d" in name else 1
            where = () if name in of_sizes else (0, 0)
            tf32 = (False, arguments[-1]) if "conv2d" in name else ()
            there["cuda_" + name] = arguments[:-last] + where + tf32
    calls = there
counts = {"refused": 0, "done": 0}


def is_buffer(value):
    return isinstance(value, tuple) and len(value) == 5 and isinstance(value[3], tuple)


def call(name, args, entry=None):
    shown = repr(args)
    print(name, shown if len(shown) < 2000 else shown[:2000] + "...", flush=True)
    try:
        (entry or getattr(module, name))(*args)
    except (ValueError, TypeError, RuntimeError, OverflowError, UnicodeEncodeError) as error:
        if not str(error):
            raise AssertionError("no message") from error
        counts["refused"] += 1
    else:
        counts["done"] += 1


for name, arguments in calls.items():
    prepared = getattr(module, name)(*arguments)  # right as it is
    call(name, (*arguments, 1, 2, 3))
    call(name, arguments[:-1])
    wrong = [list(variants(value, rng)) for value in arguments]
    for place in range(len(arguments)):
        for bad in wrong[place]:
            call(name, (*arguments[:place], bad, *arguments[place + 1:]))
    for _ in range(400 if arguments else 0):  # several at once
        changed = list(arguments)
        for place in rng.sample(range(len(changed)), min(len(changed), rng.randint(2, 3))):
            changed[place] = rng.choice(wrong[place] or [None])
        call(name, tuple(changed))
    if type(prepared).__name__ == "PreparedCall":  # the same call for other addresses
        addresses = [0 if a is None else a[0] for a in arguments if a is None or is_buffer(a)]
        if pool is None:
            addresses.pop(-2)  # that None was the pool
        addresses += [0] * ("conv2d" not in name)  # no workspace
        addresses += [0] * name.startswith("cuda_")  # the stream
        prepared(*addresses)
        for place, bad in ((i, b) for i in range(len(addresses)) for b in (0, -1, *WRONG_TYPES)):
            if place < len(addresses) - name.startswith("cuda_"):
                changed = (*addresses[:place], bad, *addresses[place + 1:])
                call("prepared " + name, changed, prepared)
        for wrong_count in (addresses[:-1], [*addresses, 0], []):
            call("prepared " + name, wrong_count, prepared)
    for tensor in alive:
        assert inputs.intact(tensor), f"{name} wrote outside of a buffer"
print("end", counts["refused"], counts["done"])
"""
PROGRAM = "\n".join(
    [
        f"HUGE = {HUGE}",
        f"NUMBERS = {NUMBERS}",
        "WRONG_TYPES = [None, 1.5, 'x', b'x', [1, 2], {}, (), ..., float('-inf'), 1j]",
        inspect.getsource(buffer_variants),
        inspect.getsource(number_variants),
        inspect.getsource(variants),
        CHILD,
    ]
)

PROBLEMS = {
    "convolution": "mb1ic8ih5iw6oc16kh3kw3ph1pw1_f32_nhwc",
    "relu": "mb1ic3ih5iw9oc8kh3kw3sh2sw1_relu_f64_nhwc",
    "pool": "mb1ic8ih6iw7oc16kh3kw3ph1pw1_pool2x2s2x2p0x0d1x1c0_bf16_nhwc",
    "5x5": "mb1ic32ih6iw7oc16kh5kw5ph2pw2_pool3x3s2x2p1x1d1x1c1_f32_nhwc",
    "all without convolution": "mb1ic9ih6iw7_pool2x3s2x1p1x1d1x1c0_f32_nhwc",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PROBLEMS)
def test_wrong_arguments(name, run_python):
    fuzz(name, run_python)


@pytest.mark.parametrize("name", PROBLEMS)
def test_wrong_arguments_of_cuda_entries(name, run_python, emulated_kernels):
    fuzz(name, run_python, emulated_kernels.__name__, emulated_kernels.__file__)


def fuzz(name, run_python, *module):
    done = run_python(PROGRAM, PROBLEMS[name], str(random.Random(name).randrange(1000)), *module)
    lines = done.stdout.splitlines() or [""]
    assert done.returncode == 0, f"exit {done.returncode} after\n{lines[-1]}\n{done.stderr[-3000:]}"
    _, refused, finished = lines[-1].split()
    assert int(refused) > int(finished) > 0


def test_every_entry_is_tested():
    for name in dir(_C):
        names = (name, name.removeprefix("cuda_"))
        tested = name in ("PreparedCall", "MemoTable") or any(f'"{n}": (' in CHILD for n in names)
        assert name.startswith("_") or tested, name


def test_memo_table_of_many_forms():
    setting = [1]
    table = _C.MemoTable(2, (torch.Tensor, torch.nn.Parameter), (lambda: setting[0],))
    x, y = torch.randn(2, 3), torch.randn(3, requires_grad=True)
    alike = [
        (x, None, 1, (2, 3), "same", True),
        (x, None, 1, (2, 3), "same", 1),
        (x, None, 1, (2, 3), "same but longer", True),
        (x, None, 1, (2, 3), None, True),
        (x, None, 1, 2, 3, "same", True),
        (x, y, 1, (2, 3), "same", True),
        (x, y.detach(), 1, (2, 3), "same", True),
        (x.double(), None, 1, (2, 3), "same", True),
        (x.to_sparse(), None, 1, (2, 3), "same", True),
        (x.t(), None, 1, (2, 3), "same", True),
        (x.t().contiguous(), None, 1, (2, 3), "same", True),
        (torch.nn.Parameter(x), None, 1, (2, 3), "same", True),
    ]
    for i, given in enumerate(alike):
        assert table.find(*given) is None
        table.add(lambda i=i: i, *given)
    assert [table.find(*given) for given in alike] == list(range(len(alike)))
    assert table.find(x + 1, None, 1, [2, 3], "same", True) == 0
    setting[0] = 2
    assert table.find(*alike[0]) is None
    # Arguments that no key can hold are never found, and make_value is not called.
    subclass, negated = x.as_subclass(type("Sub", (torch.Tensor,), {})), torch.complex(x, x).conj()
    for wrong in (1, "x", subclass, x.to("meta"), negated.imag, object(), []):
        table.add(pytest.fail, wrong, None)
        assert table.find(wrong, None) is None
    for wrong in (1.5, {}, (1, "x"), [None], 2**70, "\udc80", b"x", x, ((1,),)):
        table.add(pytest.fail, x, None, wrong)
        assert table.find(x, None, wrong) is None
    for too_few in ((), (x,)):
        assert table.find(*too_few) is None
    with pytest.raises(ZeroDivisionError):
        _C.MemoTable(0, (), (lambda: 1 // 0,)).find()
    for wrong in ((-1, (), ()), (1, (3,), ()), (1, 2, 3)):
        with pytest.raises((TypeError, ValueError)):
            _C.MemoTable(*wrong)


def test_emulated_entries_are_those_of_the_module(emulated_kernels):
    for name in dir(_C):
        if name.startswith("cuda_"):
            modules = (_C, emulated_kernels)
            ours, theirs = (getattr(m, name).__doc__.replace(m.__name__, "") for m in modules)
            assert ours == theirs, name


@pytest.mark.parametrize("name", ["relu", "pool"])
def test_code_in_another_order_is_refused(name):
    # It would be read in the wrong order without leaving its memory.
    problem = Problem.parse(PROBLEMS[name])
    data, code = inputs.make(problem), kernels.make_code(problem, 0.5)
    other = inputs.place(code, "nchw" if problem.pool else "nhwc")
    with pytest.raises(ValueError, match=r"code must be (channels_last|contiguous)"):
        kernels.dgrad(problem, data.dy, other, data.w)
    with pytest.raises(ValueError, match=r"code must be (channels_last|contiguous)"):
        kernels.wgrad(problem, data.x, data.dy, other)


@pytest.mark.parametrize("direction", ["fprop", "dgrad", "wgrad"])
def test_workspace_one_byte_too_small_is_refused(direction, monkeypatch):
    problem = Problem.parse(PROBLEMS["pool"])
    data, code = inputs.make(problem), kernels.make_code(problem, 0.5)
    size = kernels.workspace_bytes
    monkeypatch.setattr(kernels, "workspace_bytes", lambda *args: size(*args) - 1)
    calls = {
        "fprop": lambda: kernels.fprop(problem, *data[:3]),
        "dgrad": lambda: kernels.dgrad(problem, data.dy, code, data.w),
        "wgrad": lambda: kernels.wgrad(problem, data.x, data.dy, code),
    }
    with pytest.raises(ValueError, match=r"workspace must hold \d+ bytes"):
        calls[direction]()
