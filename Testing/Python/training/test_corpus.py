"""The corpus: sets from .npz files and from folders of images, and what is drawn from them."""

from __future__ import annotations

import io
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from imageio.v3 import imwrite

from scribblesegment import Volume, read_labelmap, write_labelmap
from scribblesegment.errors import DatasetError
from scribblesegment.io.nifti import write_nifti
from scribblesegment.training.corpus import (
    HierarchicalSampler,
    Sample,
    SegmentationSet,
    load_corpus,
    load_folders,
    load_set,
    modality,
)

# Files of sets.


def test_a_set_is_read_with_its_description(save_set):
    labels = np.zeros((2, 8, 8), np.uint16)
    labels[:, 2:4] = 300
    meta = '{"name": "Cells", "instances": true, "licence": "CC0-1.0"}'
    read = load_set(save_set("file", images=np.full((2, 8, 8), 7, np.uint8), labels=labels, meta=meta))
    assert (read.name, read.instances, read.meta["licence"]) == ("Cells", True, "CC0-1.0")
    np.testing.assert_array_equal(read.labels, labels)
    assert read.images.dtype == np.uint8
    unnamed = load_set(save_set("spleen", meta="{}"))
    assert (unnamed.name, unnamed.instances) == ("spleen", False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "lacks labels; a set is"),
        ({"images": None, "meta": None}, "lacks images, meta"),
        ({"meta": "no json"}, "cannot be read"),
        ({"meta": "[1, 2]"}, "meta must be a JSON object, got list"),
        ({"images": np.zeros((5, 32, 32), np.float32)}, "expected images uint8 .* got images float32"),
        ({"labels": np.zeros((5, 32, 32), np.int64)}, "labels int64"),
        ({"labels": np.zeros((5, 32, 32), np.uint64)}, "labels uint64"),
        ({"labels": np.zeros((5, 16, 16), np.uint8)}, r"labels uint8 \(5, 16, 16\)"),
        ({"images": np.zeros((5, 32, 32, 3), np.uint8)}, r"images uint8 \(5, 32, 32, 3\)"),
        ({"images": np.zeros((2, 8, 9), np.uint8), "labels": np.zeros((2, 8, 9), np.uint8)}, "square"),
        ({"images": np.zeros((0, 8, 8), np.uint8), "labels": np.zeros((0, 8, 8), np.uint8)}, "at least one image"),
        ({"meta": np.array([{"name": "pickled"}], dtype=object)}, "cannot be read"),
    ],
)
def test_another_layout_is_refused_with_the_file_s_name(save_set, changes, message):
    with pytest.raises(DatasetError, match=rf"blocks\.npz.*{message}"):
        load_set(save_set(**changes))


class _TouchWhenLoaded:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_code_in_a_file_is_not_run_and_what_is_no_set_is_named(save_set, tmp_path):
    evil, single = _TouchWhenLoaded(tmp_path / "ran"), io.BytesIO()
    np.save(single, np.zeros(3))
    with pytest.raises(DatasetError, match=r"blocks\.npz cannot be read"):
        load_set(save_set(meta=np.array([evil], dtype=object)))
    path = tmp_path / "wrong.npz"
    for content in (pickle.dumps(evil), b"", b"PK", b"some text", single.getvalue(), None):
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)
        with pytest.raises(DatasetError, match=r"wrong\.npz (cannot be read|holds a single array)"):
            load_set(path)
    assert not (tmp_path / "ran").exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_and_nothing_else_happens(tmp_path, data):
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (2, 8, 8)).astype(np.uint8)
    np.savez_compressed(buffer, images=images, labels=images % 3, meta='{"name": "x"}')
    content = bytearray(buffer.getvalue())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for _ in range(data.draw(st.integers(1, 4))):
            content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "damaged.npz"
    path.write_bytes(content)
    try:
        read = load_set(path)
    except DatasetError as error:
        assert "damaged.npz" in str(error)  # noqa: PT017 (an undamaged reading is allowed too)
    else:
        assert read.images.shape == (2, 8, 8)


# Folders.


def test_a_folder_is_read_in_order_without_what_is_excluded(save_set, tmp_path):
    folder = save_set("b").parent
    save_set("a")
    assert [entry.name for entry in load_corpus(folder)] == ["a", "b"]
    (folder / "c.npz").write_bytes(b"damaged")
    assert [entry.name for entry in load_corpus(folder, exclude=["c"])] == ["a", "b"]
    with pytest.raises(DatasetError, match=r"not in .*: aortha, liver"):
        load_corpus(folder, exclude=["liver", "aortha"])
    with pytest.raises(DatasetError, match="There is no folder"):
        load_corpus(tmp_path / "nowhere")


def test_bad_sets_are_named_and_skipped_only_when_asked_for(save_set):
    folder = save_set("good").parent
    save_set("grey", images=np.zeros((5, 32, 32), np.float32))
    (folder / "damaged.npz").write_bytes(b"damaged")
    told: list[str] = []
    assert [entry.name for entry in load_corpus(folder, skip_bad=told.append)] == ["good"]
    assert "damaged.npz cannot be read" in told[0]
    assert "grey.npz: expected images uint8" in told[1]
    with pytest.raises(DatasetError, match=r"damaged\.npz"):
        load_corpus(folder)
    (folder / "good.npz").unlink()
    with pytest.raises(DatasetError, match="no usable training set"):
        load_corpus(folder, skip_bad=told.append)


def write_pair(folder: Path, name: str = "head", shape: tuple[int, int, int] = (12, 40, 30)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    matrix = np.diag([1.0, 1.0, 3.0, 1.0])
    array = np.random.default_rng(1).integers(0, 100, shape).astype(np.int16)
    labels = np.zeros(shape, np.uint8)
    labels[4:9, 10:30, 5:25] = 7
    array[labels > 0] += 400
    write_nifti(folder / f"{name}_image.nii.gz", array, matrix)
    write_nifti(folder / f"{name}_label.nii.gz", labels, matrix)
    return folder


def test_slices_of_all_axes_that_show_something_are_images_of_a_set(tmp_path):
    write_pair(tmp_path / "heads")
    (entry,) = load_folders(tmp_path)
    assert entry.name == "heads volumes"
    assert not entry.instances
    assert entry.images.shape == entry.labels.shape == (5 + 20 + 20, 256, 256)
    assert entry.meta["axis"] == [0] * 5 + [1] * 20 + [2] * 20
    assert entry.meta["index"][:5] == [4, 5, 6, 7, 8]
    assert set(entry.meta["subjects"]) == {"head"}
    assert set(np.unique(entry.labels)) == {0, 7}
    rows, columns = np.nonzero(entry.labels[30])  # 5 slices of 3 mm by 20 or so of 1 mm
    assert (np.ptp(rows) + 1) / (np.ptp(columns) + 1) == pytest.approx(15 / 20, rel=0.05)  # pixels are square
    for image, labels in zip(entry.images, entry.labels, strict=True):
        assert np.median(image[labels == 7]) > 150


def test_volumes_of_other_licences_and_other_folders_are_passed_over_and_nuclei_are_instances(tmp_path):
    for name in ("heads", "nc", "some_nuclei", "stardist_3d"):
        write_pair(tmp_path / name)
    (tmp_path / "notes").mkdir()
    (tmp_path / "README.md").write_text("about")
    found = {entry.name: entry.instances for entry in load_folders(tmp_path)}
    assert found == {"heads volumes": False, "some_nuclei volumes": True, "stardist_3d volumes": True}


def test_images_of_two_dimensions_are_sets_too(tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    image = np.zeros((60, 80), np.uint8)
    image[10:40, 20:60] = 200
    imwrite(folder / "one_image.png", image)
    imwrite(folder / "one_label.png", (image > 0).astype(np.uint8))
    (entry,) = load_corpus(tmp_path)
    assert entry.images.shape == (1, 256, 256)
    assert entry.labels.sum() == pytest.approx(30 * 40 * (256 / 80) ** 2, rel=0.05)


def test_bad_pairs_and_folders_are_skipped_by_name(tmp_path):
    folder, told = write_pair(tmp_path / "heads"), []
    write_pair(folder, "other")
    (folder / "head_label.nii.gz").write_bytes(b"no image")
    (write_pair(tmp_path / "worse") / "head_image.nii.gz").write_bytes(b"no image")
    (entry,) = load_folders(tmp_path, skip_bad=told.append)
    assert (entry.name, set(entry.meta["subjects"])) == ("heads volumes", {"other"})
    assert "head_image.nii.gz" in told[0]
    assert "worse" in told[-1]


def test_pairs_that_cannot_be_used_are_named(tmp_path):
    folder = write_pair(tmp_path / "heads")
    label = folder / "head_label.nii.gz"
    for volume, message in (
        (np.ones((13, 40, 30), np.uint8), "not on the grid of the image"),
        (np.full((12, 40, 30), 1 << 16, np.uint32), "labels go up to 65536"),
        (np.zeros((12, 40, 30), np.uint8), "show no structure of 30 pixels"),
    ):
        write_labelmap(label, Volume(volume, np.diag([1.0, 1.0, 3.0, 1.0])))
        with pytest.raises(DatasetError, match=message):
            load_folders(tmp_path)
    label.unlink()
    with pytest.raises(DatasetError, match=r"head_image\.nii\.gz cannot be used"):
        load_folders(tmp_path)


@pytest.mark.parametrize("extension", ["nii.gz", "seg.nrrd", "mha"])
def test_labels_lie_where_their_file_says_in_whatever_format(tmp_path, extension):
    folder = write_pair(tmp_path / "heads")
    (folder / "head_image.json").write_text("{}")  # beside it, by other programs
    labels = read_labelmap(folder / "head_label.nii.gz")
    (folder / "head_label.nii.gz").unlink()
    flip = np.diag([-1.0, 1.0, 1.0, 1.0])
    flip[0, 3] = labels.shape[2] - 1
    turned = Volume(np.ascontiguousarray(labels.array[:, :, ::-1]), labels.ijk_to_ras @ flip)
    write_labelmap(folder / f"head_label.{extension}", turned)
    (entry,) = load_folders(tmp_path)
    for image, mask in zip(entry.images, entry.labels, strict=True):
        assert np.median(image[mask == 7]) > 150


# Drawing.


def a_set(labels: list[list[int]], *, instances: bool = False, side: int = 8) -> SegmentationSet:
    """One image for each inner list; each of its labels fills two rows."""
    arrays = np.zeros((len(labels), side, side), dtype=np.uint16)
    for image, present in zip(arrays, labels, strict=True):
        for row, label in enumerate(present):
            image[row * 2 : row * 2 + 2] = label
    return SegmentationSet("a set", np.zeros(arrays.shape, np.uint8), arrays, instances, {})


def draw(sampler: HierarchicalSampler, count: int) -> list[Sample]:
    rng = np.random.default_rng(11)
    return [sampler.draw(rng) for _ in range(count)]


def of_modality(modality: str) -> SegmentationSet:
    return replace(a_set([[1]]), meta={"modality": modality})


BY_MODALITY = [of_modality("MRI T1"), of_modality("T2 MRI"), of_modality("DCE-MRI breast"), of_modality("CT")]


@pytest.mark.parametrize(
    ("sets", "balance", "of", "shares"),
    [
        ([a_set([[1]] * 30), a_set([[1, 2]]), a_set([[4]] * 3)], 0.0, "set_index", [1 / 3, 1 / 3, 1 / 3]),
        ([a_set([[1]] * 20 + [[1, 7]])], 0.0, "label", [0, 1 / 2, *[0] * 5, 1 / 2]),
        ([a_set([[3], [3], [3]])], 0.0, "image_index", [1 / 3, 1 / 3, 1 / 3]),
        (BY_MODALITY, 0.0, "set_index", [1 / 4, 1 / 4, 1 / 4, 1 / 4]),
        (BY_MODALITY, 1.0, "set_index", [1 / 6, 1 / 6, 1 / 6, 1 / 2]),
        (BY_MODALITY, 0.5, "set_index", [5 / 24, 5 / 24, 5 / 24, 3 / 8]),
        ([a_set([[1]]), a_set([[2]]), of_modality("CT")], 1.0, "set_index", [1 / 4, 1 / 4, 1 / 2]),
        ([a_set([[1], [1, 2, 3, 9]], instances=True)], 0.0, "image_index", [1 / 2, 1 / 2]),
        ([a_set([[1, 2, 3, 4]], instances=True)], 0.0, "label", [0, 1 / 4, 1 / 4, 1 / 4, 1 / 4]),
    ],
)
def test_sets_labels_images_and_objects_are_drawn_by_their_shares(sets, balance, of, shares):
    samples = draw(HierarchicalSampler(sets, modality_balance=balance), 3000)
    counts = Counter(getattr(sample, of) for sample in samples)
    for index, share in enumerate(shares):  # within four standard deviations of a binomial count
        assert abs(counts[index] - 3000 * share) <= 4 * np.sqrt(3000 * share * (1 - share))


@given(st.lists(st.lists(st.integers(1, 500), max_size=4, unique=True), min_size=1, max_size=5), st.booleans())
def test_every_sample_shows_its_structure(labels, instances):
    if not any(labels):
        labels = [*labels, [3]]
    entry = a_set(labels, instances=instances)
    sampler = HierarchicalSampler([entry], min_fraction=0.25)
    for sample in draw(sampler, 20):
        assert np.mean(entry.labels[sample.image_index] == sample.label) >= 0.25
        assert sampler.labels_of(sample) == sorted(set(labels[sample.image_index]))


def test_a_set_without_a_usable_structure_is_named():
    with pytest.raises(DatasetError, match="Set a set shows no structure"):
        HierarchicalSampler([a_set([[1]]), a_set([[], []])])


@pytest.mark.parametrize(
    ("described", "name"),
    [
        ("CT (2 mm iso, 48x48 patches)", "ct"),
        ("DCE-MRI breast", "mri"),
        ("MRI/CT", "mri"),
        ("phase-contrast microscopy", "microscopy"),
        ("3D fluorescence (light-sheet)", "fluorescence"),
        ("colour fundus photography", "fundus"),
        ("Chest X-ray", "x-ray"),
        ("OCT", "oct"),
        ("spectral photography", "spectral photography"),
        ("", ""),
    ],
)
def test_a_modality_is_told_by_a_word_of_its_description(described, name):
    assert modality(of_modality(described)) == name


def test_the_same_generator_draws_the_same_samples():
    sampler = HierarchicalSampler([a_set([[1, 2], [2, 3]]), a_set([[1], [1, 2]], instances=True)])
    assert draw(sampler, 30) == draw(sampler, 30)
