"""Reads and writes safetensors files of tensors and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import replace_file
from .errors import TrainingError

if TYPE_CHECKING:
    from torch import Tensor


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Replaces a file atomically. The same content gives the same bytes.

    Raises:
        TrainingError: the file cannot be written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save

    tensors = {name: value.detach().contiguous() for name, value in tensors.items()}
    try:
        # Not save_file, whose files only their owner may read.
        content = _sorted(save(tensors, {"format": "pt", **metadata}))
        replace_file(path, lambda temporary: temporary.write_bytes(content))
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"{path}: cannot be written ({error})") from None


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors of a file by name, and its metadata.

    Raises:
        OSError, SafetensorError: the file cannot be read, or is not a whole safetensors file.
    """
    from safetensors.torch import load

    content = path.read_bytes()  # safetensors itself opens only UTF-8 names
    return load(content), _header(content)[0].get("__metadata__", {})


def _header(content: bytes) -> tuple[dict[str, Any], int]:
    """The header, and its end's offset in bytes."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), end


def _sorted(content: bytes) -> bytes:
    """Sorts a file's metadata, which safetensors shuffles at every call."""
    header, end = _header(content)
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # keeps the tensors behind it aligned
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[end:]])
