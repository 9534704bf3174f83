"""Writes a run's report: one HTML file and its pictures."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from statistics import fmean, harmonic_mean
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import Module

from .._shown import shell_word
from ..data import Images
from . import page
from .atomic import write_text
from .confusion_matrix import draw_confusion_matrix
from .curves import draw_accuracy, draw_loss
from .figures import dark_path
from .filters import draw_filters, first_filters
from .scores import Mistake, Scores
from .settings import Settings
from .verdict import interval

if TYPE_CHECKING:
    from PIL.Image import Image

REPORT = "report.html"
LOSS, ACCURACY, CONFUSION, FILTERS = "loss.png", "accuracy.png", "confusion.png", "filters.png"

_FOLDED = 30  # longer tables and lists are folded
_PARTS = {"train": "training", "val": "validation", "test": "test"}
_THUMBNAIL = 256  # pixels of a mistake's longer side, at most
# Settings that are listed even with their defaults.
_ALWAYS = ("model", "data", "epochs", "batch_size", "lr", "schedule", "image_size", "seed")


def write_report(
    folder: Path, metrics: dict[str, Any], model: Module, scores: Scores, test_images: Images
) -> None:
    """Writes report.html and its pictures into a run's folder.

    Args:
        folder: the run's folder.
        metrics: the contents of its metrics.json, with the test.
        model: the network with the weights that were tested.
        scores: the test's scores.
        test_images: the test's images.

    Raises:
        fastconv.data.DataError: a test image can no longer be read.
        OSError, TrainingError: the folder cannot be written.
    """
    classes, settings, test = metrics["classes"], metrics["settings"], metrics["test"]
    draw_loss(folder / LOSS, metrics)
    draw_accuracy(folder / ACCURACY, metrics)
    draw_confusion_matrix(folder / CONFUSION, scores.confusion, classes)
    title = f"{settings['model']} on {Path(settings['data']).name}"
    text = page.page(
        title,
        _head(title, metrics),
        page.section(
            "Training",
            page.side_by_side(
                _themed(folder / ACCURACY, "Accuracy (in training: of each batch before its step)"),
                _themed(folder / LOSS, "Loss (cross-entropy)"),
            ),
        ),
        page.section("Classes", _class_table(classes, test, metrics["images_per_class"]["train"])),
        page.section(
            "Confusion matrix",
            _themed(
                folder / CONFUSION,
                "Test images of each class, a row, and what they were called",
                wide=len(classes) > 6,
            ),
            *_confusions(scores.confusion, classes),
        ),
        page.section("Most certain mistakes", *_mistakes(scores, test_images, classes)),
        *_filters(folder / FILTERS, model),
        page.section("Use it", page.code(*_commands(metrics["run"]))),
        page.section(
            "Settings",
            page.note("All others are the defaults; settings.json has them."),
            _settings(settings),
        ),
        page.section("Environment", _environment(metrics["environment"])),
        *_skipped(metrics["skipped"]),
    )
    write_text(folder / REPORT, text)


def _head(title: str, metrics: dict[str, Any]) -> str:
    """The title, the images and the main numbers."""
    test, epochs = metrics["test"], metrics["epochs"]
    images = ", ".join(f"{n:,} {_PARTS[part]} images" for part, n in metrics["images"].items())
    about = (
        f"{len(metrics['classes'])} classes · {images} · {metrics['settings']['layers']} layers · "
        f"{metrics['run']}"
    )
    tiles = [("Test accuracy", f"{test['accuracy']:.1%}", f"mean F1 {test['f1']:.3f}")]
    if test["top5"] is not None:
        tiles.append(("Top-5 accuracy", f"{test['top5']:.1%}", "of the test images"))
    waiting = f"{fmean(e['waiting'] for e in epochs):.0%} of the time waiting for images"
    tiles += [
        ("Best epoch", f"{metrics['best_epoch']} of {len(epochs)}", "its weights are kept"),
        ("Images/s", f"{harmonic_mean(e['images_per_second'] for e in epochs):,.0f}", waiting),
        ("Time", _duration(metrics["seconds"]), "of training"),
    ]
    return "\n".join(
        [
            f"<h1>{page.escaped(title)}</h1>",
            page.note(about),
            page.statement(_judgement(metrics["classes"], test), warning=bool(test["doubt"])),
            page.numbers(tiles),
        ]
    )


def _judgement(classes: list[str], test: dict[str, Any]) -> str:
    """The test's numbers in words."""
    counts, recall = test["per_class"]["images"], test["per_class"]["recall"]
    images = sum(counts)
    correct = sum(row[label] for label, row in enumerate(test["confusion"]))
    text = f"{correct:,} of {images:,} test images ({correct / images:.1%}) were called right"
    if test["doubt"]:
        return f"{text}, {test['doubt']}."
    low, high = interval(correct, images)
    largest = max(range(len(classes)), key=counts.__getitem__)
    weakest = min((i for i, count in enumerate(counts) if count), key=recall.__getitem__)
    found = round(recall[weakest] * counts[weakest])
    share = counts[largest] / images
    text += (
        f"; calling all of them {classes[largest]} would give {share:.1%}. "
        f"On other images like these, expect between {low:.0%} and {high:.0%}."
    )
    if correct == images:
        return text
    return (
        f"{text} The weakest class is {classes[weakest]}: "
        f"{found:,} of its {counts[weakest]:,} were found."
    )


def _themed(path: Path, caption: str, wide: bool = False) -> str:
    """A picture from `draw_both`."""
    return page.picture(path, caption, dark_path(path), wide)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def _class_table(classes: list[str], test: dict[str, Any], trained: list[int]) -> str:
    """Precision, recall and F1 of every class, their means, and the numbers of images."""
    columns = test["per_class"]
    values = (columns[name] for name in ("precision", "recall", "f1", "images"))
    rows = (_class_row(*row) for row in zip(classes, *values, trained, strict=True))
    precision, recall, f1 = (test[name] for name in ("precision", "recall", "f1"))
    sums = _class_row("mean, sum", precision, recall, f1, sum(columns["images"]), sum(trained))
    titles = ("precision", "recall", "F1", "test images", "training images")
    lines = [
        "<table>",
        "<thead><tr><th>class</th>",
        *(f'<th class="number">{title}</th>' for title in titles),
        "</tr></thead>",
        "<tbody>",
        *rows,
        "</tbody>",
        f"<tfoot>{sums}",
        "</tfoot></table>",
    ]
    table = page.scrolled("\n".join(lines))
    return page.folded(f"{len(classes)} classes", table, len(classes) <= _FOLDED)


def _class_row(
    name: str, precision: float, recall: float, f1: float, tested: int, trained: int
) -> str:
    cells = "".join(
        f'<td class="number bar" style="--share: {value:.1%}">{value:.3f}</td>'
        for value in (precision, recall, f1)
    )
    counts = "".join(f'<td class="number">{count:,}</td>' for count in (tested, trained))
    return f"<tr><th>{page.escaped(name)}</th>{cells}{counts}</tr>"


def _confusions(confusion: Tensor, classes: list[str], most: int = 5) -> list[str]:
    """The most frequent confusions in words, since the picture has no names for many classes."""
    wrong = confusion.clone().fill_diagonal_(0).flatten()
    counts, cells = wrong.sort(descending=True, stable=True)
    texts = [
        f"{classes[cell // len(classes)]}, taken for {classes[cell % len(classes)]}: {count:,}"
        for count, cell in zip(counts[:most].tolist(), cells[:most].tolist(), strict=True)
        if count
    ]
    return [page.note("Most frequent:"), page.items(texts)] if texts else []


def _mistakes(scores: Scores, images: Images, classes: list[str]) -> list[str]:
    """The misclassified pictures, and their files' names."""
    if not scores.mistakes:
        return [page.note("No mistakes.")]

    def entry(mistake: Mistake) -> tuple[Image, tuple[str, ...]]:
        picture = images.frame(mistake.index).copy()
        picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
        right, wrong = classes[mistake.label], classes[mistake.predicted]
        return picture, (right, f"taken for {wrong}", f"{mistake.probability:.1%} sure")

    names = (images.name(mistake.index) for mistake in scores.mistakes)
    return [
        page.gallery(map(entry, scores.mistakes)),
        page.folded("Their names, in this order", page.items(names, numbered=True)),
    ]


def _filters(path: Path, model: Module) -> list[str]:
    filters = first_filters(model)
    if filters is None:
        return []
    draw_filters(path, filters)
    return [page.section("First layer", page.picture(path, "Its filters, each from dark to light"))]


def _commands(run: str) -> tuple[str, str]:
    checkpoint = f"--checkpoint {shell_word(run)}"
    return f"fastconv predict IMAGE... {checkpoint}", f"fastconv evaluate {checkpoint}"


def _settings(settings: dict[str, Any]) -> str:
    """The main settings of every run, and those that differ from this network's defaults."""
    defaults = asdict(Settings(model=settings["model"]))
    hidden = ("out", "device")  # shown elsewhere
    return page.pairs(
        {
            name.replace("_", " "): value
            for name, value in settings.items()
            if name in _ALWAYS or (name not in hidden and value != defaults.get(name))
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
