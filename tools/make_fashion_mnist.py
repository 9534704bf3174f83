"""Makes the data set that comes with fastconv: a balanced subset of Fashion-MNIST.

Reads the IDX files of the Debian package `dataset-fashion-mnist` and writes 500 training and 100
test images of each of the ten classes to fastconv/data/fashion_mnist: the same ones every time.

    sudo apt-get install dataset-fashion-mnist
    python tools/make_fashion_mnist.py
"""

from __future__ import annotations

import argparse
import gzip
from pathlib import Path

import numpy as np

SOURCE = Path("/usr/share/datasets/fashion-mnist")
TARGET = Path(__file__).parent.parent / "fastconv" / "data" / "fashion_mnist"
PER_CLASS = {"train": 500, "test": 100}
PREFIX = {"train": "train", "test": "t10k"}


def read_idx(path: Path) -> np.ndarray:
    """An IDX file of bytes: two zeros, type 8, rank, sizes as big-endian int32, then the data."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\x00\x00\x08":
        raise SystemExit(f"{path} is not an IDX file of bytes")
    rank = content[3]
    shape = np.frombuffer(content, ">i4", count=rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def choose(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    """Indices of `per_class` images of each class, drawn by the seed, classes in turn."""
    generator = np.random.default_rng(seed)
    drawn = [
        np.sort(generator.choice(np.flatnonzero(labels == label), per_class, replace=False))
        for label in range(10)
    ]
    return np.stack(drawn, axis=1).reshape(-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=SOURCE)
    parser.add_argument("--target", type=Path, default=TARGET)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.target.mkdir(parents=True, exist_ok=True)
    for part, per_class in PER_CLASS.items():
        images = read_idx(arguments.source / f"{PREFIX[part]}-images-idx3-ubyte.gz")
        labels = read_idx(arguments.source / f"{PREFIX[part]}-labels-idx1-ubyte.gz")
        chosen = choose(labels, per_class, arguments.seed)
        path = arguments.target / f"{part}.npz"
        np.savez_compressed(path, images=images[chosen], labels=labels[chosen])
        print(f"{path}: {len(chosen)} images, {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
