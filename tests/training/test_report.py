"""Tests the report of a run: its numbers, its pictures, and that it is self-contained."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from fastconv import data, models, training
from fastconv.training import page as page_module
from fastconv.training.confusion_matrix import draw_confusion_matrix
from fastconv.training.curves import draw_accuracy, draw_loss, epoch_ticks
from fastconv.training.environment import environment
from fastconv.training.figures import DARK, LIGHT, label
from fastconv.training.filters import draw_filters, first_filters
from fastconv.training.report import write_report
from fastconv.training.scores import Scores

NAMES = ["<img src=x onerror=alert(1)>", "$5 & $6", "猫"]
VOID = ("meta", "img", "source")


class Page(HTMLParser):
    """What a page is made of; refuses tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.text, self.opened = [], "", []
        self.feed(text)
        assert not self.opened

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, text):
        self.text += text if "style" in self.opened else f" {' '.join(text.split())} "

    def pictures(self, kind="png", tag="img", attribute="src"):
        """The pictures of one kind of file."""
        start = f"data:image/{kind};base64,"
        sources = [about[attribute] for name, about in self.tags if name == tag]
        return [base64.b64decode(s.removeprefix(start)) for s in sources if s.startswith(start)]


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Six images of noise for each of three classes."""
    root = tmp_path_factory.mktemp("data") / "pets & <co>"
    generator = np.random.default_rng(0)
    for name in NAMES:
        (root / name).mkdir(parents=True)
        for i in range(6):
            values = generator.integers(0, 256, (12, 20, 3), dtype=np.uint8)
            PIL.Image.fromarray(values).save(root / name / f"{i}.png")
    return data.load(root, image_size=8, parts=("train", "test"))


def metrics_of(images, scores, part, **changes):
    """As `train` makes them."""
    names = ("epoch", "lr", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "val_top5")
    names += ("images_per_second", "waiting")
    epochs = [
        (1, 0.01, 1.1, 0.3, 1.0, 0.4, None, 1000.0, 0.02),
        (2, 0.005, 0.7, 0.7, 0.8, 0.625, None, 3000.0, 0.04),
    ]
    settings = {"model": "CNN", "data": images.source, "layers": "fastconv", "lr": 0.01}
    return {
        "run": "runs/my run",
        "settings": settings | {"batch_size": 64, "momentum": 0.9, "out": "x", "dropout": 0.25},
        "classes": images.classes,
        "images": {"train": 1200, "val": 4, "test": len(part)},
        "images_per_class": {"train": [701, 402, 97]},
        "skipped": [],
        "environment": environment(),
        "best_epoch": 2,
        "seconds": 185.2,
        "epochs": [dict(zip(names, values, strict=True)) for values in epochs],
        "test": scores.summary() | {"doubt": None},
    } | changes


def untrained():
    torch.manual_seed(0)
    return models.CNN(len(NAMES), 8)


def write(folder, images, model=None, **changes):
    """Writes the report of an untrained network, and reads it."""
    model, part = model or untrained(), images.parts["train"]
    scores = training.evaluate(model, part)
    write_report(folder, metrics_of(images, scores, part, **changes), model, scores, part)
    return Page((folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def page(folder, images):
    return write(folder, images)


def test_numbers(page, images):
    scores = training.evaluate(untrained(), images.parts["train"])
    expected = [
        "CNN on pets & <co>",
        f"{scores.accuracy:.1%}",
        "2 of 2",
        " 1,500 ",  # 1,000 in one epoch, 3,000 in the other, which took a third of the time
        "3% of the time waiting for images",
        "3 min 05 s",
        "1,200 training images",
        "fastconv predict IMAGE... --checkpoint 'runs/my run'",
    ]
    for values in (scores.precision, scores.recall, scores.f1):
        expected += [f" {value:.3f} " for value in values.tolist()]
    assert [text for text in expected if text not in page.text] == []
    assert "Top-5" not in page.text


def test_it_judges_the_result(page, images, tmp_path):
    scores = training.evaluate(untrained(), images.parts["train"])
    right, count = int(scores.confusion.trace()), int(scores.confusion.sum())
    weakest = int(scores.recall.argmin())
    found, of_class = int(scores.confusion[weakest, weakest]), int(scores.confusion[weakest].sum())
    for text in (
        f"{right} of {count} test images ({right / count:.1%}) were called right; "
        f"calling all of them {images.classes[0]} would give 33.3%.",
        f"The weakest class is {images.classes[weakest]}: {found} of its {of_class} were found.",
    ):
        assert text in page.text
    assert ("p", {"class": "warning"}) not in page.tags
    test = scores.summary() | {"doubt": None}
    counts = test["per_class"]["images"]
    perfect = [[n if i == j else 0 for j in range(len(counts))] for i, n in enumerate(counts)]
    assert "weakest" not in write(tmp_path, images, test=test | {"confusion": perfect}).text
    doubtful = scores.summary() | {"doubt": "no better than guessing; try harder"}
    warned = write(tmp_path, images, test=doubtful)
    assert "were called right, no better than guessing; try harder." in warned.text
    assert ("p", {"class": "warning"}) in warned.tags


def test_classes_have_counts(page, images):
    for name, count in zip(images.classes, (701, 402, 97), strict=True):
        (row,) = re.findall(rf" {re.escape(name)}  0\.\d+  .*?  (\d+)  (\d+) ", page.text)
        assert row == ("4", str(count))
    assert " 1,200 " in page.text


def test_it_needs_nothing_else(page):
    assert not {"script", "link", "iframe", "object", "a"} & {tag for tag, _ in page.tags}
    for _, about in page.tags:
        assert not about.keys() & {"href", "background", "onerror"}
        for name in ("src", "srcset"):
            assert about.get(name, "data:image/").startswith("data:image/")
    assert "url(" not in page.text and "@import" not in page.text and "://" not in page.text


def test_the_pictures_are_those_of_the_folder(page, folder):
    names = ("accuracy", "loss", "confusion", "filters")
    assert page.pictures() == [(folder / f"{name}.png").read_bytes() for name in names]
    dark = page.pictures(tag="source", attribute="srcset")
    assert dark == [(folder / f"{name}-dark.png").read_bytes() for name in names[:3]]
    for pictures, theme in ((page.pictures()[:3], LIGHT), (dark, DARK)):
        for picture in pictures:
            corner = PIL.Image.open(io.BytesIO(picture)).convert("RGB").getpixel((0, 0))
            assert "#{:02x}{:02x}{:02x}".format(*corner) == theme.page
    (media,) = {about["media"] for tag, about in page.tags if tag == "source"}
    assert media == "(prefers-color-scheme: dark)"


def test_the_themes_have_the_pages_colours():
    css = page_module._TEMPLATE.read_text()
    assert re.findall(r"--card: (#\w+)", css) == [LIGHT.page, DARK.page]


def test_users_texts_are_escaped(tmp_path, images):
    page = write(tmp_path, images, skipped=["<script>alert(1)</script>.jpg", "caf\udce9.png"])
    assert len(page.pictures()) == 4
    for text in (*NAMES, "<script>alert(1)</script>.jpg", r"caf\xe9.png"):
        assert f" {text} " in page.text


def test_what_a_run_does_not_have_is_left_out(page, tmp_path, images):
    class Flat(nn.Module):
        """Has no filters; says the first class for all images."""

        def forward(self, x):
            return torch.tensor([[1.0, 0.0, 0.0]]).repeat(len(x), 1)

    scores = training.evaluate(Flat(), images.parts["train"])
    about = {"top5": 0.972, "doubt": None}
    bare = write(tmp_path, images, Flat(), test=scores.summary() | about)
    assert "First layer" in page.text and "First layer" not in bare.text
    assert len(page.pictures()) == 4 and len(bare.pictures()) == 3
    assert " Top-5 accuracy  97.2% " in bare.text and "Top-5" not in page.text
    assert "Skipped files" not in page.text


def test_settings_that_matter_are_listed(page):
    for text in (" lr  0.01 ", " batch size  64 ", " dropout  0.25 "):
        assert text in page.text
    assert " momentum " not in page.text and " out " not in page.text


def test_the_mistakes_are_shown_and_named(page, images):
    part = images.parts["train"]
    mistakes = training.evaluate(untrained(), part).mistakes
    worst, pictures = mistakes[0], page.pictures("jpeg")
    expected = (
        f" {images.classes[worst.label]}  taken for {images.classes[worst.predicted]} "
        f" {worst.probability:.1%} sure "
    )
    assert expected in page.text
    assert part.name(worst.index) in page.text
    assert len(pictures) == len(mistakes)
    shown = np.asarray(PIL.Image.open(io.BytesIO(pictures[0])), dtype=float)
    assert abs(shown - np.asarray(part.frame(worst.index), dtype=float)).mean() < 25


def test_a_run_without_mistakes(images, tmp_path):
    part = images.parts["train"]
    scores = Scores(0.0, torch.eye(3).long() * 4)
    write_report(tmp_path, metrics_of(images, scores, part), untrained(), scores, part)
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert " No mistakes. " in page.text and page.pictures("jpeg") == []


@pytest.mark.parametrize("count", [2, 20, 60, 1000])
def test_confusion_matrices_of_any_size(tmp_path, count):
    confusion = torch.randint(0, 50, (count, count), generator=torch.Generator().manual_seed(0))
    confusion[0] = 0  # a class without images
    classes = [f"class {'of a long name ' * (i % 4)}{i}" for i in range(count)]
    draw_confusion_matrix(tmp_path / "confusion.png", confusion, classes)
    assert 400 < min(PIL.Image.open(tmp_path / "confusion.png").size) < 1500


def test_the_same_pictures_every_time(tmp_path):
    for name in ("a.png", "b.png"):
        draw_confusion_matrix(tmp_path / name, torch.eye(2).long(), ["cat", "dog"])
    for end in (".png", "-dark.png"):
        assert (tmp_path / f"a{end}").read_bytes() == (tmp_path / f"b{end}").read_bytes()


@pytest.mark.parametrize("draw", [draw_loss, draw_accuracy])
@pytest.mark.parametrize("count", [1, 90])
def test_curves_of_one_and_of_many_epochs(images, tmp_path, draw, count):
    part = images.parts["train"]
    metrics = metrics_of(images, training.evaluate(untrained(), part), part)
    epochs = [metrics["epochs"][0] | {"epoch": i + 1} for i in range(count)]
    draw(tmp_path / "curve.png", metrics | {"epochs": epochs, "best_epoch": count})
    for name in ("curve.png", "curve-dark.png"):
        assert PIL.Image.open(tmp_path / name).size == (768, 512)


@pytest.mark.parametrize(
    "last, ticks",
    [
        (1, [1]),
        (3, [1, 2, 3]),
        (10, [1, 2, 4, 6, 8, 10]),
        (60, [1, 10, 20, 30, 40, 50, 60]),
    ],
)
def test_epochs_begin_with_1(last, ticks):
    assert epoch_ticks(last) == ticks


class TestFilters:
    @pytest.mark.parametrize("name, size", [("CNN", 32), ("SimpleCNN", 96), ("resnet50", 32)])
    def test_the_same_for_either_kind_of_layers(self, name, size):
        found = []
        for layers in models.LAYERS:
            torch.manual_seed(0)
            found.append(first_filters(models.create(name, 2, size, layers)))
        assert torch.equal(*found)
        assert found[0].shape[1] == 3
        assert torch.equal(found[0].amin(dim=(1, 2, 3)), torch.zeros(len(found[0])))
        assert torch.equal(found[0].amax(dim=(1, 2, 3)), torch.ones(len(found[0])))

    def test_networks_that_see_no_pictures(self):
        assert first_filters(nn.Linear(2, 2)) is None
        assert first_filters(nn.Sequential(nn.Conv2d(2, 4, 3), nn.Conv2d(1, 4, 3))) is None

    def test_every_value_is_a_square(self, tmp_path):
        filters = torch.zeros(3, 3, 1, 2)
        filters[0, :, 0, 0] = torch.tensor([1.0, 0.0, 0.0])
        filters[0, :, 0, 1] = torch.tensor([0.0, 0.0, 1.0])
        draw_filters(tmp_path / "filters.png", filters)
        pixels = np.asarray(PIL.Image.open(tmp_path / "filters.png"))
        height, width, _ = pixels.shape
        assert pixels[height // 2, width // 12].tolist() == [255, 0, 0, 255]
        assert pixels[height // 2, width // 4].tolist() == [0, 0, 255, 255]
        assert pixels[0, 0, 3] == 0
        assert pixels[height // 2, width // 2].tolist() == [0, 0, 0, 255]

    def test_the_last_row_is_filled(self, tmp_path):
        draw_filters(tmp_path / "filters.png", torch.zeros(9, 1, 3, 3))
        pixels = np.asarray(PIL.Image.open(tmp_path / "filters.png"))
        height, width, _ = pixels.shape
        assert pixels[height * 3 // 4, width // 16].tolist() == [0, 0, 0, 255]
        assert pixels[height * 3 // 4, width * 3 // 16, 3] == 0


@pytest.mark.parametrize(
    "text, drawn",
    [
        ("cat", "cat"),
        ("two\nlines", r"two\nlines"),
        ("$x$", r"\$x\$"),
        ("caf\udce9", r"caf\xe9"),
        ("sulphur-crested cockatoo, Kakatoe galerita", "sulphur-crested cockato…"),
    ],
)
def test_labels(text, drawn):
    assert label(text) == drawn
