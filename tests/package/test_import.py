"""Tests `import fastconv` in new processes."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import torch

import fastconv


def test_loads_nothing_that_only_training_needs(run_python):
    done = run_python(
        "import sys, torch; before = set(sys.modules); import fastconv\n"
        "heavy = {'matplotlib', 'PIL', 'safetensors', 'tqdm', 'torchvision'}\n"
        "print(*sorted(heavy & (set(sys.modules) - before)))"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc/self/maps")
def test_one_openmp_library_is_mapped(run_python):
    done = run_python(
        "import torch, fastconv\n"
        "torch.randn(1000, 1000) @ torch.randn(1000, 1000)\n"
        "fastconv.conv2d_relu(torch.randn(4, 8, 32, 32), torch.randn(16, 8, 3, 3))\n"
        "paths = {line.split()[-1] for line in open('/proc/self/maps') if '/' in line}\n"
        "names = ('gomp', 'iomp', 'libomp')\n"
        "print(*{p for p in paths if any(n in p.split('/')[-1] for n in names)})"
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 1, done.stdout


def test_links_no_torch():
    # The core is torch-free: it works with whatever torch is there.
    if shutil.which("readelf") is None:
        pytest.skip("needs readelf")
    text = subprocess.check_output(["readelf", "-d", fastconv._C.__file__], text=True)
    needed = [line for line in text.splitlines() if "NEEDED" in line]
    assert needed and not [line for line in needed if "torch" in line or "cudart" in line]


def test_without_compiled_part(tmp_path, run_python):
    # As in the repository's root, where ./fastconv shadows the installed package.
    source = Path(fastconv.__file__).parent
    shutil.copytree(
        source, tmp_path / "fastconv", ignore=shutil.ignore_patterns("_C*", "__pycache__")
    )
    # -S: an editable install would put its own finder in front.
    paths = [str(tmp_path), str(Path(torch.__file__).parents[1])]
    done = run_python("import fastconv", options=("-S",), PYTHONPATH=os.pathsep.join(paths))
    assert done.returncode == 1
    assert "During handling of the above exception" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: fastconv was not built")
    assert "pip install" in last


def test_info():
    info = fastconv.info()
    assert info["version"] == fastconv.__version__
    text = str(info)
    for word in ("version", "cuda", "instruction sets", "torch"):
        assert word in text
    used = fastconv._C.build_info()["isa"]
    assert used in text


def documented_names():
    """Those that docs/guide.md lists, of modules and of all else."""
    text = (Path(__file__).parents[2] / "docs" / "guide.md").read_text()
    (section,) = re.findall(r"^`from fastconv import \*` brings (.+?)\n\n", text, re.M | re.S)
    names, modules = section.split("Import modules")
    return [re.findall(r"`(?:fastconv\.)?(\w+)`", part) for part in (names, modules)]


def test_star_brings_what_the_guide_lists_and_no_modules():
    names, modules = documented_names()
    assert sorted(names) == fastconv.__all__
    from torch import nn

    brought = {"nn": nn}
    exec("from fastconv import *", brought)
    assert brought["nn"] is nn
    del brought["__builtins__"]
    assert sorted(brought.keys() - {"nn"}) == fastconv.__all__
    assert not any(isinstance(value, ModuleType) for value in brought.values() if value is not nn)
    assert all(isinstance(getattr(fastconv, name), ModuleType) for name in modules)
    assert {*fastconv.__all__, *modules} <= {*dir(fastconv)}


@pytest.mark.slow
def test_training_and_data_are_reachable_and_loaded_when_asked_for(run_python):
    done = run_python(
        "import sys, fastconv\n"
        "parts = ('data', 'models', 'training')\n"
        "assert not [name for name in parts if f'fastconv.{name}' in sys.modules]\n"
        "print(fastconv.training.Settings(epochs=3).epochs, fastconv.data.PACKAGED)"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "3 fashion-mnist\n"
    with pytest.raises(AttributeError, match="has no attribute 'trainig'"):
        _ = fastconv.trainig
