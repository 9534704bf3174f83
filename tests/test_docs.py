"""What the documentation names is there."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.quick

TESTS = Path(__file__).parent
DROP_IN = TESTS.parent / "docs" / "drop_in.md"


def named_tests():
    """Pairs of a file and a test's name, "" where a line names the whole file."""
    for line in DROP_IN.read_text().splitlines():
        file = None
        for cell in re.findall(r"`((?:test_\w+\.py)?(?:::\w+)?)`", line.rpartition("| ")[2]):
            name = cell.partition("::")
            file = name[0] or file
            if name[0] or name[1]:
                yield file, name[2]


def test_every_test_in_the_table_exists():
    named = list(named_tests())
    assert len(named) > 80
    for file, name in named:
        assert (TESTS / file).exists(), file
        if name:
            assert re.search(rf"^def {name}\(", (TESTS / file).read_text(), re.M), f"{file}::{name}"
