"""Runs the asan build in its own process, with calls on stdin and results on stdout."""

import os
import pickle
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from emulated import KernelError, Library


def main():
    library = Library(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # other prints do not disturb the results
    while True:
        try:
            entry, arrays, numbers, run = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        arrays = [a if a is None else a.copy() for a in arrays]
        error = None
        try:
            library.call(entry, arrays, numbers, run)
        except KernelError as report:
            error = str(report)
        pickle.dump((arrays, error), answers)
        answers.flush()


main()
