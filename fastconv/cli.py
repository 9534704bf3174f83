"""The command `fastconv`: train, evaluate, predict, info."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, info
from ._parser import WRONG_USE, Parser
from ._shown import shown
from ._train_options import add_train_options

if TYPE_CHECKING:
    import torch
    from torch.nn import Module

    from .data import Dataset
    from .training import Description

FAILED, STOPPED, NOT_READ = 1, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        arguments: the command's words, by default those of this process.

    Returns:
        The exit status: 0 for success, 1 for a failure, 2 for wrong use, 130 after Ctrl-C. It is
        141 if the reader of the output is gone, as for every program in front of `| head`.
    """
    # Large tensors use huge pages. torch reads this at its first allocation. Without it, page
    # faults take much of a training step's time, most of all with torch's layers.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    for stream in (sys.stdout, sys.stderr):
        # A name with a letter that the output's encoding lacks must not end a run.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(arguments)
        finally:
            print(end="", flush=True)  # now, while an error can still be reported
    except KeyboardInterrupt as error:
        return _fail(str(error) or "stopped", STOPPED)
    except BrokenPipeError:
        _drop_output()
        return NOT_READ
    except OSError as error:
        _drop_output()
        return _fail(f"the output cannot be written ({error.strerror})", FAILED)


def _run(arguments: Sequence[str] | None) -> int:
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    # Imported only now, so that help and errors of options do not wait for them.
    from .data import DataError
    from .training import TrainingError, UsageError

    try:
        return options.command(options)
    except (DataError, UsageError) as error:
        return _fail(str(error), WRONG_USE)
    except TrainingError as error:
        return _fail(str(error), FAILED)
    except OSError as error:
        if error.filename is None:
            raise  # an error of the output, which has no file name
        return _fail(str(error), FAILED)
    except (MemoryError, RuntimeError) as error:
        if "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        return _fail("out of memory: try a smaller --batch-size or --image-size", FAILED)


def _drop_output() -> None:
    """Discards the rest of the output, else Python fails again when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(message: str) -> None:
    """Prints a message to stderr, since programs may read the output."""
    print(f"fastconv: {shown(message)}", file=sys.stderr)


def _fail(message: str, status: int) -> int:
    _tell(message)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="fastconv", description="Trains and runs image classifiers.")
    parser.add_argument("--version", action="version", version=f"fastconv {__version__}")
    parser.set_defaults(command=None)
    commands = parser.add_subparsers(metavar="COMMAND")
    train = commands.add_parser("train", help="train a network", description=_train.__doc__)
    train.set_defaults(command=_train)
    add_train_options(train)

    evaluate = commands.add_parser(
        "evaluate", help="test a trained network", description=_evaluate.__doc__
    )
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument(
        "--data",
        metavar="DIR",
        help="a folder of images to test with (the run's own test images)",
    )
    evaluate.add_argument(
        "--batch-size", type=int, metavar="N", default=64, help="images per batch (64)"
    )
    _add_network(evaluate)

    predict = commands.add_parser("predict", help="classify images", description=_predict.__doc__)
    predict.set_defaults(command=_predict)
    predict.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="files, or folders of them"
    )
    predict.add_argument(
        "--top", type=int, metavar="N", default=3, help="number of most likely classes to show (3)"
    )
    predict.add_argument("--json", action="store_true", help="print a JSON array")
    predict.add_argument(
        "--explain",
        type=Path,
        metavar="DIR",
        help="write a picture for each image into this folder that shows which parts of it led to "
        "its class (Grad-CAM)",
    )
    _add_network(predict)

    about = commands.add_parser("info", help="show version, build and hardware")
    about.set_defaults(command=_info)
    return parser


def _add_network(parser: argparse.ArgumentParser) -> None:
    """Adds the options that choose a trained network."""
    from .models import LAYERS

    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="RUN",
        help="a run folder or checkpoint (the latest in runs/)",
    )
    parser.add_argument(
        "--model", metavar="NAME", help="the network of a --checkpoint that fastconv did not write"
    )
    parser.add_argument(
        "--layers",
        choices=LAYERS,
        help="library of the layers: fastconv or torch.nn (as it was trained)",
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, ... (a GPU if torch has one)")


def _train(options: argparse.Namespace) -> int:
    """Trains a network and writes a run folder: weights, metrics, and report.html to look at."""
    from .training import Settings, UsageError, resume, train

    log = partial(print, flush=True)
    given = dict(vars(options))
    _, config, run = (given.pop(name) for name in ("command", "config", "resume"))
    if run is not None:
        changes = {name: given.pop(name, None) for name in ("data", "epochs")}
        if given:
            name = next(iter(given)).replace("_", "-")
            raise UsageError(
                "--resume takes all settings but --data and --epochs from the run: "
                f"leave --{name} out"
            )
        resume(run, log, **changes)
    else:
        train(Settings(**given) if config is None else Settings.from_json(config, **given), log)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    """Prints accuracy, precision, recall and F1 of a trained network on the test images."""
    from .training import UsageError, evaluate
    from .training.verdict import doubt

    if options.batch_size < 1:
        raise UsageError(f"batch_size must be at least 1, got {options.batch_size}")
    path, model, description, device = _load(options)
    dataset = _test_images(options.data, path, description)
    for line in dataset.notes:
        print(shown(line))
    images = dataset.parts["test"]
    scores = evaluate(model, images, options.batch_size, device)
    about = f"{path}: {description.model} after epoch {description.epoch}, {dataset.source}"
    print(shown(f"{about}: {len(images)} images"))
    print(scores.table([shown(name) for name in description.classes]))
    if scores.top5 is not None:
        print(f"top-5 accuracy {scores.top5:.1%}")
    if scores.warning():
        print(scores.warning())
    problem = doubt(scores.confusion, description.classes)
    result = f"test accuracy {scores.accuracy:.1%}"
    print(result if problem is None else shown(f"{result}, {problem}"))
    return 0


def _test_images(folder: str | None, path: Path, description: Description) -> Dataset:
    """The images of a folder, or the run's own test images."""
    from . import data
    from .training import UsageError

    if folder not in (None, data.PACKAGED):
        dataset = data.load_test_folder(folder, description.classes, description.preprocessing)
        tested, own = Path(dataset.source), Path(description.data)
        if description.data and own in (tested, tested.parent) and tested != own / "test":
            dataset.notes.append(
                f"{tested}: the network was trained with images of this folder; without --data it "
                "is tested with those that were kept apart"
            )
        return dataset
    source = folder or description.data
    if not source:
        raise UsageError("say with --data which images to test it with")
    dataset = data.load(source, description.image_size, description.seed, parts=("test",))
    if dataset.classes != description.classes:
        others = ", ".join(sorted(set(dataset.classes) ^ set(description.classes)))
        raise UsageError(
            f"{source}: its classes are not those that {path} was trained for"
            + (f"; only one of them has {others}" if others else "")
        )
    return dataset


def _predict(options: argparse.Namespace) -> int:
    """Prints the likeliest classes of each image and their probabilities."""
    from .data import DataError
    from .training import UsageError
    from .training.explain import Answer, Explanations
    from .training.predict import find_images, predict_files

    if options.top < 1:
        raise UsageError(f"top must be at least 1, got {options.top}")
    images = find_images(options.images, _tell)
    pictures = options.explain and Explanations(options.explain)
    checkpoint, model, description, device = _load(options)
    if description.doubt is not None:
        _tell(f"{checkpoint}: {description.doubt}")
    preprocessing = description.preprocessing
    status, results = 0, []
    for path, result in predict_files(model, images, preprocessing, device):
        entry: dict[str, Any] = {"image": str(path)}
        results.append(entry)
        if isinstance(result, DataError):
            status = _fail(str(result), WRONG_USE)
            entry["error"] = str(result)
            continue
        best = result.topk(min(options.top, len(result)))
        entry["predictions"] = [
            {"class": description.classes[label], "probability": probability}
            for probability, label in zip(*(column.tolist() for column in best), strict=True)
        ]
        if pictures:
            first = entry["predictions"][0]
            answer = Answer(int(best.indices[0]), first["class"], first["probability"])
            drawn = pictures.draw(model, path, preprocessing, answer, device)
            entry["explanation"] = str(drawn)
        if not options.json:
            found = (f"{p['class']} {p['probability']:.1%}" for p in entry["predictions"])
            print(shown("  ".join([str(path), *found])), flush=True)
    if options.json:
        print(json.dumps(results, indent=2))
    return status


def _load(options: argparse.Namespace) -> tuple[Path, Module, Description, torch.device]:
    """The network that the options name, and its file."""
    from .training.foreign import load_network
    from .training.run_folder import find_checkpoint
    from .training.settings import find_device

    device = find_device(options.device)
    path = find_checkpoint(options.checkpoint)
    model, description = load_network(path, options.model, options.layers, device, _tell)
    return path, model, description, device


def _info(options: argparse.Namespace) -> int:
    """Prints version, build and what runs here."""
    print(info())
    return 0
