"""Tests that names in the documentation exist, and that its snippets and script run."""

import re
import runpy
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
ROOT = TESTS.parent
README, DOCS = ROOT / "README.md", ROOT / "docs"
DROP_IN = DOCS / "drop_in.md"


def named_tests():
    """Pairs of room/file and a test's name, "" where a line names the whole file."""
    for line in DROP_IN.read_text().splitlines():
        file = None
        for cell in re.findall(r"`((?:\w+/test_\w+\.py)?(?:::\w+)?)`", line.rpartition("| ")[2]):
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


def blocks(text, language):
    """The code blocks of a page in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def test_readme_is_short():
    assert len(README.read_text().splitlines()) <= 120


def test_readmes_snippets_print_what_it_says(capsys):
    snippets, printed = (blocks(README.read_text(), kind) for kind in ("python", "text"))
    assert len(snippets) == 1
    exec(snippets[0], {})
    assert printed == [capsys.readouterr().out]


def test_links_lead_somewhere():
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md")] + sorted(DOCS.glob("*.md"))
    for page in pages:
        text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            file, _, place = link.partition("#")
            target = page.parent / file if file else page
            assert target.exists(), f"{page.name}: {link}"
            if place:
                titles = re.findall(r"^#+ (.+)$", target.read_text(), re.M)
                anchors = [re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles]
                assert place in anchors, f"{page.name}: {link}"


@pytest.mark.slow
def test_the_script_trains_loads_and_predicts(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(DOCS / "python.py"))
    *_, accuracy, prediction = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"runs/cnn-1: \d\d\.\d% of the test images are right", accuracy)
    assert names["metrics"]["test"]["accuracy"] > 0.5
    assert re.fullmatch(r"new\.png: \S.* \d+\.\d%", prediction)
    assert names["description"].classes[names["best"]] in prediction
