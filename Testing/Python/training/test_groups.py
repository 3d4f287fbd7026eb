"""Groups of training samples: what they show, what they may use as context, and that they are reproducible."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from scribblesegment.training.corpus import SegmentationSet
from scribblesegment.training.groups import GroupConfig, GroupDataset


@pytest.fixture
def dataset(tmp_path: Path) -> GroupDataset:
    return GroupDataset([discs()], GroupConfig(**SMALL), steps=20, seed=3, cache=tmp_path)


SMALL = {"size": 64, "kinds": ((2, 3), (4, 1)), "kind_shares": (0.5, 0.5), "shapes_pool": 2, "shapes_p": 0.1}


def discs(count: int = 6, side: int = 128) -> SegmentationSet:
    """Images with two discs each, labels 1 and 2; the last image shows only the second."""
    rng = np.random.default_rng(0)
    images, labels = np.zeros((count, side, side), np.uint8), np.zeros((count, side, side), np.uint8)
    rows, columns = np.mgrid[:side, :side]
    for index in range(count):
        for label in (1, 2):
            center = rng.uniform(0.3, 0.7, 2) * side
            disc = (rows - center[0]) ** 2 + (columns - center[1]) ** 2 < (0.12 * side) ** 2
            labels[index][disc] = label
        images[index] = 60 + 60 * labels[index] + rng.integers(0, 30, (side, side))
    labels[-1][labels[-1] == 1] = 0
    return SegmentationSet("discs", images, labels, False, {})


def test_a_step_depends_on_its_number_alone(dataset, tmp_path):
    dataset[4]
    again = GroupDataset([discs()], GroupConfig(**SMALL), steps=20, seed=3, cache=tmp_path, first=5)[2]
    here = dataset[7]
    assert (here.images == again.images).all()
    assert all(
        (a.points == b.points).all()
        for s, t in zip(here.strokes, again.strokes, strict=True)
        for a, b in zip(s, t, strict=False)
    )


def test_images_may_have_odd_sides(tmp_path):
    config = GroupConfig(**SMALL, superpixel_p=0.9)
    dataset = GroupDataset([discs(side=127)], config, steps=4, seed=3, cache=tmp_path)
    assert all(dataset[step].images.shape[-2:] == (64, 64) for step in range(4))


def test_images_of_a_group_are_context_for_each_other_but_not_for_themselves(dataset):
    sizes = set()
    for step in range(12):
        batch = dataset[step]
        each = len(batch.images) // batch.groups
        sizes.add(each)
        assert batch.allowed.shape == (len(batch.images), each)
        assert not batch.allowed[np.arange(len(batch.images)), np.arange(len(batch.images)) % each].any()
        prompted = np.array([bool(s) or b[0] >= 0 for s, b in zip(batch.strokes, batch.boxes, strict=True)])
        assert (prompted | batch.allowed.any(dim=1).numpy()).all()
    assert sizes == {1, 3}


def test_some_images_do_not_show_the_structure(tmp_path):
    config = GroupConfig(**{**SMALL, "absent_p": 0.9, "shapes_p": 0.0, "superpixel_p": 0.0, "outline_p": 0.0})

    def lacking(*sets: SegmentationSet) -> bool:
        data = GroupDataset(sets, config, steps=20, seed=1, cache=tmp_path)
        return any(not mask.any() for step in range(8) for mask in data[step].masks)

    everywhere = discs()
    everywhere = replace(everywhere, images=everywhere.images[:-1], labels=everywhere.labels[:-1])
    assert lacking(discs())
    assert not lacking(everywhere)
    assert lacking(everywhere, replace(everywhere, name="others"))  # images of another set lack it


def test_the_second_look_shows_a_part_of_the_same_image(dataset):
    batch = next(batch for batch in map(dataset.__getitem__, range(20)) if batch.fine_images is not None)
    assert batch.fine_masks is not None
    assert batch.fine_images is not None
    size = batch.images.shape[-1]
    for index in range(len(batch.images)):
        row, column, side = batch.windows[index].tolist()
        cells = ((np.arange(size) + 0.5) / size * side - 0.5 + np.array([[row], [column]])).round().astype(int)
        coarse = batch.masks[index, 0].numpy()[np.ix_(*cells.clip(0, size - 1))]
        assert (coarse == batch.fine_masks[index, 0].numpy()).mean() > 0.9
