"""Tests the random changes of training images, and that they follow from the seed."""

import numpy as np
import PIL.Image
import pytest
import torch

from fastconv import data
from fastconv.data import Augmentation, AugmentedImages, Preprocessing

ALL = Augmentation(rotation=20, crop=0.4, flip=True, colour=0.3)


def picture(width=40, height=30, mode="RGB"):
    """Left dark, right light; the upper half without red."""
    x = np.linspace(0, 255, width)
    values = np.stack([np.tile(x, (height, 1))] * 3, axis=-1)
    values[: height // 2, :, 0] = 0
    return PIL.Image.fromarray(values.astype(np.uint8)).convert(mode)


def applied(augmentation, image=None, size=16, zoom=0.8, seed=0):
    image = image or picture()
    return augmentation.apply(image, zoom, size, np.random.default_rng(seed))


def test_nothing_is_what_validation_sees():
    assert not Augmentation()
    assert ALL
    preprocessing = Preprocessing(24, 30)  # the picture's shorter side: nothing is resized
    ours = applied(Augmentation(), size=24)
    assert torch.equal(ours, preprocessing.crop(picture()))


def test_half_of_the_pictures_are_mirrored():
    plain = applied(Augmentation())
    found = [applied(Augmentation(flip=True), seed=seed) for seed in range(40)]
    mirrored = [torch.equal(image, plain.flip(2)) for image in found]
    assert all(torch.equal(i, plain) for i, is_so in zip(found, mirrored, strict=True) if not is_so)
    assert 10 < sum(mirrored) < 30


def test_rotation_is_about_the_middle_and_within_its_bound():
    corner = PIL.Image.new("RGB", (33, 33))
    corner.putpixel((28, 16), (255, 255, 255))  # 12 pixels to the right of the middle
    angles = []
    for seed in range(30):
        image = applied(Augmentation(rotation=20), corner, size=33, zoom=1, seed=seed)
        y, x = np.unravel_index(int(image[0].argmax()), (33, 33))
        assert np.hypot(x - 16, y - 16) == pytest.approx(12, abs=1)
        angles.append(np.degrees(np.arctan2(y - 16, x - 16)))
    assert max(np.abs(angles)) < 23
    assert min(angles) < -8 and max(angles) > 8


def test_a_crop_takes_a_part_of_the_area_anywhere():
    sides = (400, 300)
    for seed in range(50):
        random = np.random.default_rng(seed)
        left, top, width, height = Augmentation(crop=0.3)._region(sides, 0.875, random)
        assert left >= 0 and top >= 0 and left + width <= 400 and top + height <= 300
        assert 0.299 < width * height / 120_000 <= 1
        assert 0.749 < width / height < 1.334
    # A picture that is too small for such a crop gives its middle.
    assert Augmentation(crop=0.9)._region((1000, 10), 1, random) == (495, 0, 10, 10)


def test_colour_changes_brightness_contrast_and_saturation():
    plain = applied(Augmentation()).float()
    means, spreads = [], []
    for seed in range(20):
        image = applied(Augmentation(colour=0.5), seed=seed).float()
        means.append((image.mean() / plain.mean()).item())
        spreads.append((image[1:].std() / plain[1:].std()).item())
    assert min(means) < 0.8 and max(means) > 1.1
    assert min(spreads) < 0.8 and max(spreads) > 1.1


@pytest.mark.parametrize("mode, channels", [("RGB", 3), ("L", 1)])
def test_the_result_is_of_the_size_asked_for(mode, channels):
    image = applied(ALL, picture(mode=mode), size=21)
    assert image.shape == (channels, 21, 21)
    assert image.dtype == torch.uint8


class TestImages:
    def images(self):
        dataset = data.load(image_size=20, parts=("val",))
        return dataset.parts["val"]

    def batches(self, images, chunks):
        return torch.cat([x for x, _ in images.batches(chunks)])

    def test_an_image_depends_on_seed_epoch_and_itself_alone(self):
        images = self.images()
        x = self.batches(AugmentedImages(images, ALL, 1, 1), [torch.arange(6)])
        chunks = [torch.tensor([5, 2]), torch.tensor([0])]
        again = self.batches(AugmentedImages(images, ALL, 1, 1), chunks)
        assert torch.equal(again, x[[5, 2, 0]])
        for numbers in ((1, 2), (2, 1)):
            other = self.batches(AugmentedImages(images, ALL, *numbers), [torch.arange(6)])
            assert not torch.equal(other, x)
        assert len({bytes(image.numpy()) for image in x}) == 6

    def test_labels_and_names_stay(self):
        images = self.images()
        changed = AugmentedImages(images, ALL, 1, 1)
        assert len(changed) == len(images)
        assert torch.equal(changed.labels, images.labels)
        assert changed.name(3) == images.name(3)
        (_, labels) = next(changed.batches([torch.tensor([7, 3])]))
        assert torch.equal(labels, images.labels[[7, 3]])
