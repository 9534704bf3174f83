"""Tests that any file name is read, and shown on one line, in every output encoding."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import noise_images
from fastconv._shown import shell_word, shown
from fastconv.data import DataError
from fastconv.training import UsageError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs names that are any bytes")

# Latin-1 as in old archives, a line break, a terminal's colors and title, right to left, emoji.
NAMES = [
    b"caf\xe9",
    b"two\nlines",
    b"\x1b[31mred\x1b]0;title\x07",
    "\u202egnp.exe".encode(),
    "🐈猫".encode(),
]
ENCODINGS = ["ascii:strict", "utf-8:strict", "latin-1:strict", "utf-16:strict"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with classes and images of such names; one of each class is broken."""
    root = tmp_path_factory.mktemp("names")
    noise_images.write(root / "photos", 12, light=60, spread=190)
    photos = os.fsencode(root / "photos")
    for name in (b"dark", b"light"):
        for i, new in enumerate(NAMES):
            os.rename(photos + b"/%s/%d.png" % (name, i), photos + b"/%s/%s.png" % (name, new))
        with open(photos + b"/" + name + b"/broken" + NAMES[0] + NAMES[1] + b".png", "wb") as file:
            file.write(b"no image")
    os.rename(photos + b"/dark", photos + b"/" + NAMES[0] + NAMES[2])
    return root


def fastconv(folder, *words, encoding):
    """Runs the command; its output must be lines of the encoding, without control characters."""
    done = subprocess.run(
        [sys.executable, "-m", "fastconv", *words],
        cwd=folder,
        env={**os.environ, "PYTHONIOENCODING": encoding},
        capture_output=True,
        timeout=300,
    )
    out, err = (text.decode(encoding.split(":")[0]) for text in (done.stdout, done.stderr))
    assert "Traceback" not in err
    assert all(line.isprintable() for line in (out + err).split("\n")), (out, err)
    return done.returncode, out.splitlines(), err.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_command_prints_them(folder, encoding):
    run = b"run-" + NAMES[0] + encoding.encode()
    options = [b"--data", b"photos", b"--out", run, b"--image-size", b"8", b"--batch-size", b"8"]
    status, out, err = fastconv(folder, b"train", *options, b"--epochs", b"1", encoding=encoding)
    assert (status, err) == (0, [])
    first, second, third = out[:3]
    assert first == "left out 2 that cannot be read:"
    assert second.startswith(
        r"  photos/caf\xe9\x1b[31mred\x1b]0;title\x07/brokencaf\xe9two\nlines.png"
    )
    assert third.startswith(r"  photos/light/brokencaf\xe9two\nlines.png: not a readable image")
    assert r"run-caf\xe9" in out[-1]

    status, out, err = fastconv(folder, b"evaluate", b"--checkpoint", run, encoding=encoding)
    assert (status, err) == (0, [])
    assert any(line.startswith(r"caf\xe9\x1b[31mred\x1b]0;title\x07 ") for line in out)

    words = [b"predict", b"photos", b"--checkpoint", run]
    status, out, err = fastconv(folder, *words, encoding=encoding)
    broken = [line for line in err if "not a readable image" in line]
    assert (status, len(out), len(broken)) == (2, 24, 2)
    assert any(line.startswith(r"photos/light/\x1b[31mred\x1b]0;title\x07.png  ") for line in out)

    status, out, _ = fastconv(folder, *words, b"--json", encoding=encoding)
    assert status == 2
    entries = json.loads("\n".join(out))
    assert {entry["image"] for entry in entries} == {
        f"photos/{c}/{name}"
        for c in os.listdir(folder / "photos")
        for name in os.listdir(folder / "photos" / c)
    }

    report = (folder / os.fsdecode(run) / "report.html").read_text(encoding="utf-8")
    assert r"brokencaf\xe9two\nlines.png" in report
    assert not any(c in report for c in "\x1b\x07\u202e")


@pytest.mark.slow
def test_wrong_words_are_shown_safely(folder):
    words = [b"predict", b"no\x1b[31m\xe9\n.png", b"--checkpoint", b"no\xe9"]
    status, _, (line,) = fastconv(folder, *words, encoding="utf-8:strict")
    assert (status, line) == (2, r"fastconv: no\xe9: no such checkpoint")
    status, _, (line,) = fastconv(folder, b"train", b"--n\xe9\n", encoding="ascii:strict")
    assert status == 2 and r"--n\xe9\n" in line


@given(st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("\udc80\udce9\udcff")))
def test_what_is_shown_is_one_printable_line(text):
    line = shown(text)
    assert line.replace("\u200c", "").replace("\u200d", "").isprintable()
    line.encode()
    assert shown(line) == line
    if text.isprintable():
        assert line == text


@pytest.mark.parametrize("error", [DataError, UsageError])
def test_errors_have_one_line(error):
    assert (
        str(error("caf\udce9\n\x1b[31m.png: no such file"))
        == r"caf\xe9\n\x1b[31m.png: no such file"
    )


@pytest.mark.parametrize("name", [*NAMES, b"plain", b"my run", b"it's", b"it's\n\\n", b"$HOME;ls"])
def test_commands_can_be_pasted(tmp_path, name):
    word = shell_word(Path(os.fsdecode(name)))
    assert shown(word) == word
    printed = subprocess.run(["bash", "-c", f"printf %s {word}"], capture_output=True).stdout
    assert printed == name
    assert shell_word("-run") == "./-run"
    if b"\n" not in name and name.isascii() and b"\x1b" not in name:
        assert shlex.split(word) == [name.decode()]
