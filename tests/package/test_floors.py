"""Tests the package's floors, which limit imports. pyproject.toml has the contracts."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# In the folder's copy of the package, although an editable install would find the repository's.
LINT = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if "importlib" in finder.__module__]
from importlinter.cli import lint_imports
raise SystemExit(lint_imports(no_cache=True))
"""

# The files that may call the binding, but for the floor kernels/.
CALLERS_OF_C = {"__init__.py", "info.py", "precision.py", "testing/kernels.py"}


@pytest.fixture
def copy(tmp_path):
    """The package's sources and the contracts in a folder of their own."""
    pytest.importorskip("importlinter", reason="needs import-linter: pip install import-linter")
    only_python = shutil.ignore_patterns("_C*", "__pycache__", "fashion_mnist")
    shutil.copytree(ROOT / "fastconv", tmp_path / "fastconv", ignore=only_python)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(folder):
    done = subprocess.run(
        [sys.executable, "-c", LINT], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout


def plant(folder, path, line):
    file = folder / "fastconv" / path
    file.write_text(f"{file.read_text()}\n{line}\n")


def test_contracts_hold(copy):
    status, said = lint(copy)
    assert status == 0 and "2 kept, 0 broken" in said, said


@pytest.mark.parametrize(
    "path, line, broken",
    [
        ("kernels/plan.py", "from .. import functional", "kernels.plan -> fastconv.functional"),
        ("geometry.py", "from .precision import tf32", "geometry -> fastconv.precision"),
        ("nn.py", "def f(): from .models import CNN", "nn -> fastconv.models"),
        ("cli.py", "from .testing import Problem", "cli -> fastconv.testing"),
        ("models/cnn.py", "from ..data import PACKAGED", "models.cnn -> fastconv.data"),
        ("operators/codes.py", "from .conv2d import conv2d", "No circles of imports BROKEN"),
    ],
)
def test_a_wrong_import_is_found(copy, path, line, broken):
    plant(copy, path, line)
    status, said = lint(copy)
    assert status == 1 and broken in said, said


def test_a_module_without_a_floor_is_found(copy):
    (copy / "fastconv" / "attic.py").touch()
    status, said = lint(copy)
    assert status == 1 and "attic" in said, said


def test_only_kernels_call_the_binding():
    imports = re.compile(r"^\s*from \.+(?:_C\b| import .*\b_C\b)", re.M)
    package = ROOT / "fastconv"
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if imports.search(path.read_text())
    }
    assert {path for path in found if not path.startswith("kernels/")} <= CALLERS_OF_C
