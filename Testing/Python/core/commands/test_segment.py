from __future__ import annotations

import dataclasses
import weakref

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from PIL import Image
from scipy import ndimage

from scribblesegment import (
    ConfigError,
    FileFormatError,
    GeometryError,
    ImageError,
    PromptError,
    Segment,
    Volume,
    read_labelmap,
    write_labelmap,
    write_segmentation,
)
from scribblesegment.commands import segment as job
from scribblesegment.commands.labelled_prompts import LabelBox, LabelClick, SliceChoice
from scribblesegment.commands.segment import SegmentRequest, segment
from scribblesegment.data.preprocessing import IntensityRange

OBLIQUE = np.array(
    [[-0.8, 0.1, 0.2, 12.0], [0.1, -0.7, 0.1, -5.0], [0.0, 0.1, 3.0, 7.0], [0.0, 0.0, 0.0, 1.0]], dtype=np.float64
)
STRAIGHT = np.array([[-0.8, 0, 0, 12.0], [0, -0.7, 0, -5.0], [0, 0, 3.0, 7.0], [0, 0, 0, 1.0]])
SHAPE = (10, 20, 24)


@dataclasses.dataclass
class Prediction:
    logits: np.ndarray

    def mask(self, threshold=0.5):
        return self.logits > 0


class Painter:
    """Stands in for a network: an object is what lies within 2 pixels of a positive mark, or in a box."""

    def __init__(self):
        self.images = []
        self.prompts = []
        self.asked_for = None

    def __call__(self, name, *, device, progress):
        self.asked_for = (name, device)
        return self

    def set_image(self, image, *, spacing_mm=(1.0, 1.0), intensity_range=None):
        self.images.append((np.array(image), spacing_mm, intensity_range))

    def predict(self, prompts):
        self.prompts.append(prompts)
        seeds = prompts.scribbles[0] > 0
        for point, label in zip(prompts.point_coords, prompts.point_labels, strict=True):
            seeds[tuple(point)] |= bool(label)
        logits = np.where(seeds, 4.0, 2.5 - ndimage.distance_transform_edt(~seeds)) if seeds.any() else seeds - 5.0
        for start, stop in prompts.boxes:
            logits[start[0] : stop[0], start[1] : stop[1]] = 3.0
        logits[prompts.scribbles[1] > 0] = -4.0
        return Prediction(logits.astype(np.float32))


@pytest.fixture
def painter():
    return Painter()


@pytest.fixture
def image(tmp_path, rng):
    path = tmp_path / "image.nrrd"
    write_image(path, rng.integers(-1000, 1000, SHAPE).astype(np.int16), STRAIGHT)
    return path


def write_image(path, array, ijk_to_ras):
    lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ ijk_to_ras
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    written = sitk.GetImageFromArray(array)
    written.SetSpacing(spacing.tolist())
    written.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    written.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(written, str(path))


def paint(path, marks, *, shape=SHAPE, matrix=STRAIGHT, segments=None):
    labels = np.zeros(shape, np.uint8)
    for index, label in marks:
        labels[index] = label
    if segments:
        write_segmentation(path, Volume(labels, matrix), segments)
    else:
        write_labelmap(path, Volume(labels, matrix))
    return path


def run(painter, image, output, **fields):
    lines = []
    segment(SegmentRequest(image, output, **fields), load=painter, say=lines.append)
    return lines


def test_strokes_of_two_labels_become_a_named_segmentation_on_the_images_grid(painter, image, tmp_path):
    names = [Segment(1, "Liver", (0.8, 0.5, 0.4)), Segment(3, "Spleen", (0.2, 0.5, 0.9)), Segment(4, "x", (0, 0, 0))]
    marks = [((2, 5, slice(4, 9)), 1), ((2, 14, slice(4, 9)), 3)]
    scribbles = paint(tmp_path / "strokes.seg.nrrd", marks, segments=names)
    lines = run(painter, image, tmp_path / "out.seg.nrrd", scribbles=scribbles, overlay=tmp_path / "picture.png")

    result = read_labelmap(tmp_path / "out.seg.nrrd")
    assert result.array.dtype == np.uint8
    assert np.allclose(result.ijk_to_ras, STRAIGHT)
    assert [(s.label, s.name) for s in result.segments] == [(1, "Liver"), (3, "Spleen")]
    assert result.segments[0].color_rgb == pytest.approx((0.8, 0.5, 0.4))
    assert np.unique(np.nonzero(result.array)[0]).tolist() == [2]
    assert result.array[2, 5, 6] == 1
    assert result.array[2, 14, 6] == 3
    assert lines[0] == "segmented slice k:2 (axial)"
    assert lines[1] == f"  1  Liver: {int((result.array == 1).sum())} pixels"
    assert lines[-2:] == [f"wrote {tmp_path / 'out.seg.nrrd'}", f"wrote {tmp_path / 'picture.png'}"]
    assert Image.open(tmp_path / "picture.png").size[0] >= 700


def test_every_label_gets_the_others_strokes_as_negative(painter, image, tmp_path):
    scribbles = paint(tmp_path / "s.nrrd", [((2, 5, 4), 1), ((2, 14, 4), 2), ((2, 9, 9), 7)])
    run(painter, image, tmp_path / "out.nrrd", scribbles=scribbles, background="7")
    assert [np.argwhere(p.scribbles[0]).tolist() for p in painter.prompts] == [[[5, 4]], [[14, 4]]]
    assert [np.argwhere(p.scribbles[1]).tolist() for p in painter.prompts] == [[[9, 9], [14, 4]], [[5, 4], [9, 9]]]
    assert read_labelmap(tmp_path / "out.nrrd").labels_present() == (1, 2)


def test_every_slice_is_normalised_by_the_range_of_the_volume(painter, image, tmp_path):
    scribbles = paint(tmp_path / "s.nrrd", [((1, 5, 4), 1), ((4, 14, 6), 1)])
    run(painter, image, tmp_path / "out.nrrd", scribbles=scribbles)
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    expected = IntensityRange.estimate(voxels)
    assert [used for _, _, used in painter.images] == [expected, expected]
    assert np.array_equal(painter.images[1][0], voxels[4])
    assert painter.images[0][1] == pytest.approx((0.7, 0.8))


def test_strokes_in_one_slice_of_another_axis_choose_that_slice(painter, image, tmp_path):
    scribbles = paint(tmp_path / "s.nrrd", [((slice(1, 5), 8, slice(4, 9)), 2)])
    lines = run(painter, image, tmp_path / "out.nii.gz", scribbles=scribbles)
    assert lines[0] == "segmented slice j:8 (coronal)"
    assert np.unique(np.nonzero(read_labelmap(tmp_path / "out.nii.gz").array)[1]).tolist() == [8]
    assert painter.images[0][1] == pytest.approx((3.0, 0.8))


def test_a_chosen_slice_leaves_the_others_alone_and_says_so(painter, image, tmp_path):
    scribbles = paint(tmp_path / "s.nrrd", [((1, 5, 4), 1), ((3, 14, 4), 2), ((4, 14, 4), 2)])
    lines = run(painter, image, tmp_path / "out.nrrd", scribbles=scribbles, slices=SliceChoice(0, 1))
    assert lines[:2] == ["not used: prompts in 2 slices k:3-4", "segmented slice k:1 (axial)"]
    assert read_labelmap(tmp_path / "out.nrrd").labels_present() == (1,)


def test_slices_with_background_only_are_named(painter, image, tmp_path):
    scribbles = paint(tmp_path / "s.nrrd", [((1, 5, 4), 1), ((3, 14, 6), 9)])
    lines = run(painter, image, tmp_path / "out.nrrd", scribbles=scribbles, background="9")
    assert lines[0] == "not used: prompts in slice k:3, which mark background only"


def test_clicks_and_boxes_work_without_strokes(painter, image, tmp_path):
    clicks = (LabelClick((2, 5, 6), True, 1), LabelClick((2, 5, 10), False))
    boxes = (LabelBox((2, 12, 3), (3, 15, 9), 2),)
    run(painter, image, tmp_path / "out.seg.nrrd", clicks=clicks, boxes=(LabelBox((2, 12, 3), (2 + 1, 15, 9), 2),))
    result = read_labelmap(tmp_path / "out.seg.nrrd")
    assert [s.name for s in result.segments] == ["Segment_1", "Segment_2"]
    assert (result.array[2, 12:15, 3:9] == 2).all()
    assert result.array[2, 5, 6] == 1
    assert len({s.color_rgb for s in result.segments}) == len(boxes) + 1


def test_a_label_that_is_not_found_is_told(painter, image, tmp_path):
    clicks = (LabelClick((2, 5, 6), True, 1),)
    lines = run(painter, image, tmp_path / "out.nrrd", clicks=clicks, threshold=0.99999)
    assert lines[1] == "  1  Segment_1: 0 pixels, nothing found"
    assert not read_labelmap(tmp_path / "out.nrrd").array.any()


def test_large_label_numbers_are_kept(painter, image, tmp_path):
    run(painter, image, tmp_path / "out.nrrd", clicks=(LabelClick((2, 5, 6), True, 70_000),))
    assert read_labelmap(tmp_path / "out.nrrd").labels_present() == (70_000,)


def test_a_png_is_segmented_from_a_png_of_strokes_of_another_resolution(painter, tmp_path, rng):
    Image.fromarray(rng.integers(0, 255, (20, 24), dtype=np.uint8)).save(tmp_path / "i.png", dpi=(300, 300))
    strokes = np.zeros((20, 24), np.uint8)
    strokes[4, 5:9] = 2
    Image.fromarray(strokes).save(tmp_path / "s.png", dpi=(72, 72))
    lines = run(painter, tmp_path / "i.png", tmp_path / "o.png", scribbles=tmp_path / "s.png")
    assert np.asarray(Image.open(tmp_path / "o.png"))[4, 6] == 2
    assert lines[0].startswith("segmented slice k:0")


def test_model_and_device_are_passed_on(painter, image, tmp_path):
    run(painter, image, tmp_path / "o.nrrd", clicks=(LabelClick((2, 5, 6), True),), model="other", device="cuda")
    assert painter.asked_for == ("other", "cuda")


def test_many_slices_show_a_progress_bar_only_to_a_person(painter, image, tmp_path, capsys):
    run(painter, image, tmp_path / "o.nrrd", boxes=(LabelBox((0, 2, 2), (10, 9, 9)),))
    assert capsys.readouterr().err == ""
    assert len(painter.prompts) == 10


@pytest.mark.parametrize(("slices", "released"), [(1, True), (10, False)])
def test_the_volume_is_let_go_before_the_network_is_loaded(image, tmp_path, monkeypatch, slices, released):
    held = []

    def read(path):
        volume = job_read(path)
        held.append(weakref.ref(volume.array.base if volume.array.base is not None else volume.array))
        return volume

    job_read = job.read_volume
    monkeypatch.setattr(job, "read_volume", read)
    alive = []

    class Watcher(Painter):
        def __call__(self, name, *, device, progress):
            alive.append(held[0]() is not None)
            return super().__call__(name, device=device, progress=progress)

    run(Watcher(), image, tmp_path / "o.nrrd", boxes=(LabelBox((0, 2, 2), (slices, 9, 9)),), slices=SliceChoice(0))
    assert alive == [not released]


# What is refused.


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("out.xyz", r"unknown extension. Choose one of \.seg\.nrrd"),
        ("out", "unknown extension"),
        ("out.jpg", "unknown extension"),
        ("missing/out.nrrd", "folder .*missing does not exist"),
        ("folder.nrrd", "it is a folder"),
        ("image.nrrd", "it is the file that is read"),
        ("strokes.nrrd", "it is the file that is read"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, painter, name, match):
    (tmp_path / "folder.nrrd").mkdir()
    request = SegmentRequest(tmp_path / "image.nrrd", tmp_path / name, scribbles=tmp_path / "strokes.nrrd")
    with pytest.raises(FileFormatError, match=match):
        segment(request, load=painter, say=print)


@pytest.mark.parametrize(
    ("overlay", "match"),
    [("o.jpg", r"must end in \.png"), ("no/o.png", "does not exist"), ("out.png", "would be one file")],
)
def test_a_picture_that_cannot_be_written_is_refused_before_anything_is_read(tmp_path, painter, overlay, match):
    click = (LabelClick((0, 0), True),)
    request = SegmentRequest(tmp_path / "i.png", tmp_path / "out.png", clicks=click, overlay=tmp_path / overlay)
    with pytest.raises(FileFormatError, match=match):
        segment(request, load=painter, say=print)


def test_a_request_without_prompts_is_refused(tmp_path, painter, image):
    with pytest.raises(PromptError, match="--scribbles, --click or --box"):
        run(painter, image, tmp_path / "o.nrrd")


def test_a_threshold_that_is_no_probability_is_refused(tmp_path, painter, image):
    with pytest.raises(ConfigError, match=r"threshold is 1\.5"):
        run(painter, image, tmp_path / "o.nrrd", clicks=(LabelClick((2, 5, 6), True),), threshold=1.5)


def moved(matrix):
    matrix = matrix.copy()
    matrix[0, 3] += 2.0
    return matrix


@pytest.mark.parametrize(
    ("shape", "matrix"),
    [(SHAPE, moved(STRAIGHT)), (SHAPE, STRAIGHT @ np.diag((1, 1, 1.1, 1)))],
)
def test_strokes_on_another_grid_are_refused_with_both_grids(tmp_path, painter, image, shape, matrix):
    scribbles = paint(tmp_path / "s.nrrd", [((2, 5, 4), 1)], shape=shape, matrix=matrix)
    with pytest.raises(GeometryError, match=r"not on the grid of .*shape .* against shape .*Resample") as caught:
        run(painter, image, tmp_path / "o.nrrd", scribbles=scribbles)
    assert str(shape) in str(caught.value)
    assert not (tmp_path / "o.nrrd").exists()


def test_strokes_with_the_rounding_of_nifti_headers_are_on_the_same_grid(tmp_path, painter, image):
    scribbles = paint(tmp_path / "s.nii.gz", [((2, 5, 4), 1)])
    assert run(painter, image, tmp_path / "o.nrrd", scribbles=scribbles)


def test_an_empty_stroke_label_map_is_refused(tmp_path, painter, image):
    scribbles = paint(tmp_path / "s.nrrd", [])
    with pytest.raises(PromptError, match="holds no stroke"):
        run(painter, image, tmp_path / "o.nrrd", scribbles=scribbles)


def test_a_click_on_another_labels_stroke_is_refused(tmp_path, painter, image):
    scribbles = paint(tmp_path / "s.nrrd", [((2, 5, 4), 1), ((2, 6, 6), 2)])
    with pytest.raises(PromptError, match=r"Two labels on one pixel: 2,5,4 has a stroke of label 1 and a click \+2"):
        run(painter, image, tmp_path / "o.nrrd", scribbles=scribbles, clicks=(LabelClick((2, 5, 4), True, 2),))


NAMES = [Segment(1, "A", (1, 0, 0)), Segment(2, "B", (0, 1, 0)), Segment(3, "B", (0, 0, 1))]


@pytest.mark.parametrize(
    ("background", "match"),
    [("C", "No segment .* 'C'; there are 'A', 'B', 'B'"), ("B", r"Several segments .* \[2, 3\]"), ("8", "label 8")],
)
def test_a_background_that_is_not_among_the_strokes_is_refused(tmp_path, painter, image, background, match):
    scribbles = paint(tmp_path / "s.seg.nrrd", [((2, 5, 4), 1), ((2, 6, 6), 2)], segments=NAMES)
    with pytest.raises(PromptError, match=match):
        run(painter, image, tmp_path / "o.nrrd", scribbles=scribbles, background=background)


def test_a_background_is_found_by_its_name(tmp_path, painter, image):
    scribbles = paint(tmp_path / "s.seg.nrrd", [((2, 5, 4), 1), ((2, 6, 6), 2)], segments=NAMES)
    run(painter, image, tmp_path / "o.seg.nrrd", scribbles=scribbles, background="A")
    assert [s.name for s in read_labelmap(tmp_path / "o.seg.nrrd").segments] == ["B"]


def test_a_background_without_strokes_is_refused(tmp_path, painter, image):
    with pytest.raises(PromptError, match="--background names a label of the scribbles"):
        run(painter, image, tmp_path / "o.nrrd", clicks=(LabelClick((2, 5, 6), True),), background="1")


def test_a_volume_does_not_go_into_a_picture(tmp_path, painter, image):
    with pytest.raises(ImageError, match="one slice, the image has 10"):
        run(painter, image, tmp_path / "o.png", clicks=(LabelClick((2, 5, 6), True),))
    assert not painter.images


def test_a_sheared_volume_does_not_go_into_nifti(tmp_path, painter, monkeypatch):
    (tmp_path / "i.nrrd").touch()
    sheared = OBLIQUE.copy()
    sheared[0, 1] += 0.5
    monkeypatch.setattr(job, "read_volume", lambda path: Volume(np.zeros(SHAPE, np.int16), sheared))
    with pytest.raises(GeometryError, match=r"not at right angles, which \.nii\.gz"):
        run(painter, tmp_path / "i.nrrd", tmp_path / "o.nii.gz", clicks=(LabelClick((2, 5, 6), True),))
    assert not painter.images


def test_a_failure_leaves_an_existing_output_as_it_was(tmp_path, image):
    class Broken(Painter):
        def predict(self, prompts):
            raise PromptError("no")

    output = tmp_path / "o.nrrd"
    output.write_bytes(b"precious")
    with pytest.raises(PromptError):
        run(Broken(), image, output, clicks=(LabelClick((2, 5, 6), True),), overlay=tmp_path / "o.png")
    assert output.read_bytes() == b"precious"
    assert {path.name for path in tmp_path.iterdir()} == {"image.nrrd", "o.nrrd"}


class Doubler(Painter):
    """Finds every object a second time, mirrored."""

    def predict(self, prompts):
        logits = super().predict(prompts).logits
        return Prediction(np.maximum(logits, logits[:, ::-1]))


@pytest.mark.parametrize("all_pieces", [False, True])
def test_pieces_on_which_nothing_was_drawn_are_left_out_unless_asked_for(tmp_path, image, all_pieces):
    out = tmp_path / "o.nrrd"
    run(Doubler(), image, out, clicks=(LabelClick((2, 5, 4), True),), all_pieces=all_pieces)
    labels = read_labelmap(out).array[2]
    assert labels[5, 4] == 1
    assert (labels[5, -5] == 1) == all_pieces


def test_a_box_counts_as_drawn_on(tmp_path, image):
    out = tmp_path / "o.nrrd"
    run(Painter(), image, out, boxes=(LabelBox((2, 4, 4), (3, 9, 9)),))
    assert (read_labelmap(out).array[2, 4:9, 4:9] == 1).all()
