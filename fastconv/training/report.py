"""A run in one HTML file to look at, and the pictures in it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import Module

from .._shown import shell_word
from ..data import Images
from . import page
from .atomic import write_text
from .confusion_matrix import draw_confusion_matrix
from .curves import draw_curves
from .filters import draw_filters, first_filters
from .mistakes import draw_mistakes
from .run_folder import CURVES
from .scores import Scores
from .settings import Settings

REPORT = "report.html"
CONFUSION, FILTERS, MISTAKES = "confusion.png", "filters.png", "mistakes.png"

_FOLDED = 30  # longer tables and lists are shown on a click
_PARTS = {"train": "training", "val": "validation", "test": "test"}


def write_report(
    folder: Path, metrics: dict[str, Any], model: Module, scores: Scores, test_images: Images
) -> None:
    """Writes report.html and its pictures into a run's folder.

    Args:
        folder: the run's.
        metrics: what its metrics.json holds, with the test.
        model: the network with the weights that were tested.
        scores: of the test.
        test_images: the images it was tested with.

    Raises:
        fastconv.data.DataError: a test image can no longer be read.
        OSError, TrainingError: the folder cannot be written.
    """
    classes, settings = metrics["classes"], metrics["settings"]
    draw_curves(folder / CURVES, metrics)
    draw_confusion_matrix(folder / CONFUSION, scores.confusion, classes)
    draw_mistakes(folder / MISTAKES, scores.mistakes, test_images, classes)
    title = f"{settings['model']} on {Path(settings['data']).name}"
    text = page.page(
        title,
        _head(title, metrics),
        page.section("Training", page.picture(folder / CURVES, "Curves of the epochs", wide=True)),
        page.section("Classes", _class_table(classes, metrics["test"])),
        page.section(
            "Confusion matrix",
            page.picture(folder / CONFUSION, "Confusion matrix", wide=len(classes) > 6),
            *_confusions(scores.confusion, classes),
        ),
        page.section(
            "Most certain mistakes",
            page.picture(folder / MISTAKES, "Misclassified test images", wide=True),
            *_mistakes(scores, test_images, classes),
        ),
        *_filters(folder / FILTERS, model),
        page.section("Use it", page.code(*_commands(metrics["run"]))),
        page.section("Settings", page.note("All others are the defaults."), _settings(settings)),
        page.section("Environment", _environment(metrics["environment"])),
        *_skipped(metrics["skipped"]),
    )
    write_text(folder / REPORT, text)


def _head(title: str, metrics: dict[str, Any]) -> str:
    """The title, the images and the numbers that matter most."""
    test, epochs = metrics["test"], metrics["epochs"]
    images = ", ".join(f"{n:,} {_PARTS[part]} images" for part, n in metrics["images"].items())
    about = (
        f"{len(metrics['classes'])} classes · {images} · {metrics['settings']['layers']} layers · "
        f"{metrics['run']}"
    )
    tiles = [("Test accuracy", f"{test['accuracy']:.1%}", f"mean F1 {test['f1']:.3f}")]
    if test["top5"] is not None:
        tiles.append(("Top-5 accuracy", f"{test['top5']:.1%}", "of the test images"))
    waiting = f"{_mean(epochs, 'waiting'):.0%} of the time waiting for images"
    tiles += [
        ("Best epoch", f"{metrics['best_epoch']} of {len(epochs)}", "its weights are kept"),
        ("Images/s", f"{_mean(epochs, 'images_per_second'):,.0f}", waiting),
        ("Time", _duration(metrics["seconds"]), "of training"),
    ]
    return f"<h1>{page.escaped(title)}</h1>\n{page.note(about)}\n{page.numbers(tiles)}"


def _mean(epochs: list[dict[str, Any]], name: str) -> float:
    return sum(epoch[name] for epoch in epochs) / len(epochs)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _class_table(classes: list[str], test: dict[str, Any]) -> str:
    """Precision, recall and F1 of every class, and their means."""
    columns = test["per_class"]
    values = (columns[name] for name in ("precision", "recall", "f1", "images"))
    rows = (_class_row(*row) for row in zip(classes, *values, strict=True))
    images = sum(columns["images"])
    titles = ("precision", "recall", "F1", "images")
    lines = [
        "<table>",
        "<thead><tr><th>class</th>",
        *(f'<th class="number">{title}</th>' for title in titles),
        "</tr></thead>",
        "<tbody>",
        *rows,
        "</tbody>",
        f"<tfoot>{_class_row('mean', test['precision'], test['recall'], test['f1'], images)}",
        "</tfoot></table>",
    ]
    return page.folded(f"{len(classes)} classes", "\n".join(lines), len(classes) <= _FOLDED)


def _class_row(name: str, precision: float, recall: float, f1: float, images: int) -> str:
    cells = "".join(
        f'<td class="number bar" style="--share: {value:.1%}">{value:.3f}</td>'
        for value in (precision, recall, f1)
    )
    return f'<tr><th>{page.escaped(name)}</th>{cells}<td class="number">{images:,}</td></tr>'


def _confusions(confusion: Tensor, classes: list[str], most: int = 5) -> list[str]:
    """The most frequent confusions in words: of many classes the picture has no names."""
    wrong = confusion.clone().fill_diagonal_(0).flatten()
    counts, cells = wrong.sort(descending=True, stable=True)
    texts = [
        f"{classes[cell // len(classes)]}, taken for {classes[cell % len(classes)]}: {count:,}"
        for count, cell in zip(counts[:most].tolist(), cells[:most].tolist(), strict=True)
        if count
    ]
    return [page.note("Most frequent:"), page.items(texts)] if texts else []


def _mistakes(scores: Scores, images: Images, classes: list[str]) -> list[str]:
    """Which files these are."""
    texts = [
        f"{images.name(mistake.index)}: {classes[mistake.label]}, "
        f"taken for {classes[mistake.predicted]} {mistake.probability:.1%}"
        for mistake in scores.mistakes
    ]
    return [page.folded("Their names", page.items(texts, numbered=True))] if texts else []


def _filters(path: Path, model: Module) -> list[str]:
    filters = first_filters(model)
    if filters is None:
        return []
    draw_filters(path, filters)
    return [page.section("First layer", page.picture(path, "The first layer's filters"))]


def _commands(run: str) -> tuple[str, str]:
    checkpoint = f"--checkpoint {shell_word(run)}"
    return f"fastconv predict IMAGE... {checkpoint}", f"fastconv evaluate {checkpoint}"


def _settings(settings: dict[str, Any]) -> str:
    """Those that are not the defaults of this network."""
    defaults = asdict(Settings(model=settings["model"]))
    return page.pairs(
        {
            name.replace("_", " "): value
            for name, value in settings.items()
            if name == "model" or name not in defaults or value != defaults[name]
        }
    )


def _environment(environment: dict[str, Any]) -> str:
    build = environment["fastconv"]  # repeats some of the others
    own = {f"fastconv: {name}": value for name, value in build.items() if name not in environment}
    others = {name: value for name, value in environment.items() if name != "fastconv"}
    return page.folded("What it ran on", page.pairs(others | own))


def _skipped(files: list[str]) -> list[str]:
    if not files:
        return []
    title = f"{len(files):,} that could not be read"
    return [page.section("Skipped files", page.folded(title, page.items(files)))]
