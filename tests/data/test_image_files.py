"""Tests which files of a folder count as images, the notes on others, and odd pictures."""

import os
import struct

import numpy as np
import PIL.Image
import pytest

from fastconv import data
from fastconv.cli import main
from fastconv.data import DataError, Preprocessing
from fastconv.training.predict import find_images


def write(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new("L", (4, 4), value).save(path, format="PNG")


@pytest.fixture
def photos(tmp_path):
    """Three images in each of two classes."""
    for name in ("cat", "dog"):
        for i in range(3):
            write(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def count(dataset):
    return sum(len(images) for images in dataset.parts.values())


class TestFolders:
    def test_hidden_files_and_folders_are_no_images(self, photos):
        for name in ("._0.png", ".DS_Store", ".thumbnails/0.png", ".hidden.jpg"):
            write(photos / "cat" / name)
        write(photos / ".thumbnails" / "0.png")
        write(photos / "._photo.png")
        dataset = data.load(photos, 8)
        assert (count(dataset), dataset.classes, dataset.notes) == (6, ["cat", "dog"], [])
        assert find_images([photos]) == sorted(photos.glob("[cd]*/[0-9].png"))

    def test_hidden_files_that_are_named_are_taken(self, photos):
        write(photos / ".one.png")
        write(photos / ".folder" / "two.png")
        paths = [photos / ".one.png", photos / ".folder"]
        assert find_images(paths) == [paths[0], paths[1] / "two.png"]

    def test_folders_named_like_images(self, photos):
        os.rename(photos / "cat", photos / "cat.jpg")
        (photos / "dog" / "empty.png").mkdir()
        write(photos / "dog" / "full.png" / "0.png")
        dataset = data.load(photos, 8)
        assert (count(dataset), dataset.skipped) == (6, [])
        assert dataset.notes == ["passed over images in sub-folders of classes: 1 in dog/full.png"]
        lines = []
        assert len(find_images([photos], lines.append)) == 7
        assert lines == []

    def test_images_in_sub_folders_are_counted(self, photos):
        for i in range(4):
            write(photos / "cat" / "2023" / "may" / f"{i}.png")
        write(photos / "dog" / "old" / "0.jpg")
        (photos / "dog" / "notes").mkdir()
        assert data.load(photos, 8).notes == [
            "passed over images in sub-folders of classes: 4 in cat/2023, 1 in dog/old"
        ]

    def test_a_class_with_images_in_sub_folders_alone(self, photos):
        write(photos / "eel" / "2023" / "0.png")
        with pytest.raises(DataError) as caught:
            data.load(photos, 8)
        assert str(caught.value) == (
            f"{photos / 'eel'}: holds no images; "
            "passed over images in sub-folders of classes: 1 in eel/2023"
        )

    def test_other_files_are_counted_by_kind(self, photos):
        for name in ("a.heic", "b.HEIC", "c.txt", "without", "another"):
            (photos / "cat" / name).write_text("no image")
        line = "passed over files that Pillow does not read: 2 .heic, 1 .txt, 2 without a suffix"
        assert data.load(photos, 8).notes == [line]
        lines = []
        find_images([photos], lines.append)
        assert lines == [line]

    def test_many_kinds_are_listed_shortly(self, photos):
        for i in range(30):
            (photos / "cat" / f"file.{i:03}").write_text("no image")
        (line,) = data.load(photos, 8).notes
        assert line.endswith(", 1 .008, 1 .009, and 20 more")

    def test_images_beside_the_classes(self, photos):
        write(photos / "new.png")
        (photos / "README").write_text("no image")
        assert data.load(photos, 8).notes == ["passed over beside the folders of images: new.png"]

    def test_folders_beside_the_parts(self, photos):
        os.rename(photos, photos.with_name("train"))
        write(photos.with_name("more") / "0.png")
        assert data.load(photos.parent, 8).notes == [
            "passed over beside the folders of images: more/"
        ]

    def test_nothing_but_other_files(self, tmp_path, capsys):
        (tmp_path / "photo.heic").write_text("of a phone")
        assert main(["predict", str(tmp_path)]) == 2
        assert capsys.readouterr().err == (
            f"fastconv: {tmp_path}: holds no images; "
            "passed over files that Pillow does not read: 1 .heic\n"
        )

    def test_a_link_to_nothing_is_named(self, photos):
        os.symlink("nowhere", photos / "cat" / "link.png")
        assert data.load(photos, 8).skipped == [f"{photos / 'cat' / 'link.png'}: no such file"]


def gray(tmp_path, values, suffix="tif"):
    """The bytes that are read from a file of gray values."""
    path = tmp_path / f"image.{suffix}"
    PIL.Image.fromarray(values).save(path)
    return Preprocessing(16, 16).read(path)[0].numpy()


RAMP = np.arange(256).reshape(16, 16)


class TestGreyValues:
    @pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
    def test_bytes_in_wider_numbers_stay_what_they_are(self, tmp_path, dtype):
        assert np.array_equal(gray(tmp_path, RAMP.astype(dtype)), RAMP)

    @pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
    def test_16_bits_are_scaled_to_8(self, tmp_path, dtype):
        assert np.array_equal(gray(tmp_path, (257 * RAMP).astype(dtype)), RAMP)

    def test_floats_up_to_one(self, tmp_path):
        assert np.array_equal(gray(tmp_path, (RAMP / 255).astype(np.float32)), RAMP)
        assert np.array_equal(gray(tmp_path, np.zeros((16, 16), np.float32)), 0 * RAMP)

    @pytest.mark.parametrize("value", [-1, 65536, np.nan, np.inf])
    def test_other_ranges_are_refused(self, tmp_path, value):
        values = RAMP.astype(np.float32)
        values[3, 4] = value
        with pytest.raises(DataError, match=r"\(gray values from .* to .*, expected 0 to 65535\)"):
            gray(tmp_path, values)


def exif_of(entries):
    """EXIF data of (tag, type, count, value) in little endian, as cameras write it."""
    head = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
    return head + b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)


ORIENTATION = (0x0112, 3, 1, 6)  # a quarter to the left of upright


class TestExif:
    def read(self, tmp_path, exif):
        x, y = np.meshgrid(np.arange(32), np.arange(32))
        image = PIL.Image.fromarray((4 * x + 3 * y).astype(np.uint8))
        image.save(tmp_path / "image.jpg", exif=exif, quality=100, subsampling=0)
        pixels = Preprocessing(32, 32).read(tmp_path / "image.jpg")[0].numpy()
        return pixels, np.asarray(image)

    @pytest.mark.parametrize("orientation", range(10))
    def test_pictures_are_turned_as_pillow_does(self, tmp_path, orientation):
        import PIL.ImageOps

        pixels, _ = self.read(tmp_path, exif_of([(0x0112, 3, 1, orientation)]))
        with PIL.Image.open(tmp_path / "image.jpg") as image:
            assert np.array_equal(pixels, PIL.ImageOps.exif_transpose(image))

    @pytest.mark.parametrize(
        "entry",
        [
            (0x011A, 5, 1, 0x7FFFFFFF),  # a resolution that lies behind the end
            (0x0131, 2, 0xFFFFFF, 0),  # a text of 16 MB
            (0x8769, 4, 1, 0xFFFF),  # a directory that is not there
            (0xA500, 13, 3, 7),  # a type of later standards
            (0x0100, 2, 4, 0x41FFFE41),  # a width that is a text
        ],
    )
    def test_a_picture_is_turned_whatever_else_its_exif_data_holds(self, tmp_path, entry):
        entries = sorted([ORIENTATION, entry])
        pixels, stored = self.read(tmp_path, exif_of(entries))
        assert np.abs(pixels.astype(int) - np.rot90(stored, -1)).max() <= 3

    @pytest.mark.parametrize(
        "exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0nonsense"]
    )
    def test_exif_data_that_cannot_be_read(self, tmp_path, exif):
        pixels, stored = self.read(tmp_path, exif)
        assert np.abs(pixels.astype(int) - stored).max() <= 3
