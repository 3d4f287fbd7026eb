"""The command segment, and the labelled strokes, clicks and boxes that it takes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from command_line import STRAIGHT, error_of, paint, run, write_image
from PIL import Image
from scipy import ndimage

from scribblesegment import PromptError, Segment, Volume, read_labelmap, write_labelmap
from scribblesegment.cli.labelled_prompts import LabelledPrompts, Strokes, read_box, read_click
from scribblesegment.data.preprocessing import IntensityRange

SHAPE = (10, 20, 24)
CLICK = ("--click", "2,5,6,+")


class Painter:
    """Stands in for a network: an object is what lies within 2 pixels of a positive mark, or in a box."""

    def __init__(self):
        self.images, self.prompts, self.asked_for = [], [], None

    def __call__(self, name, *, device):
        self.asked_for = (name, device)
        return self

    def set_image(self, image, *, spacing_mm, intensity_range):
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
        return SimpleNamespace(logits=logits.astype(np.float32))


@pytest.fixture
def painter():
    return Painter()


@pytest.fixture
def image(tmp_path, rng):
    return write_image(tmp_path / "image.nrrd", rng.integers(-1000, 1000, SHAPE).astype(np.int16))


@pytest.fixture
def segment(image, painter):
    """Segments `image` into `out.seg.nrrd` beside it, and gives the result."""

    def segment(*options, output="out.seg.nrrd", network=painter, code=0):
        assert run("segment", image, "-o", image.parent / output, *options, load=network) == code
        return read_labelmap(image.parent / output) if code == 0 else None

    return segment


def strokes(folder, *marks, name="strokes.nrrd", shape=SHAPE, **options):
    return "--scribbles", paint(folder / name, marks, shape=shape, **options)


NAMES = [Segment(1, "Liver", (0.8, 0.5, 0.4)), Segment(3, "Spleen", (0.2, 0.5, 0.9)), Segment(4, "x", (0, 0, 0))]


def test_strokes_of_two_labels_become_a_named_segmentation_on_the_images_grid(segment, tmp_path, capsys):
    marks = (((2, 5, slice(4, 9)), 1), ((2, 14, slice(4, 9)), 3))
    scribbles = strokes(tmp_path, *marks, name="strokes.seg.nrrd", segments=NAMES)
    result = segment(*scribbles, "--overlay", tmp_path / "picture.png")
    assert result.array.dtype == np.uint8
    assert np.allclose(result.ijk_to_ras, STRAIGHT)
    assert [(s.label, s.name) for s in result.segments] == [(1, "Liver"), (3, "Spleen")]
    assert result.segments[0].color_rgb == pytest.approx((0.8, 0.5, 0.4))
    assert np.unique(np.nonzero(result.array)[0]).tolist() == [2]
    assert (result.array[2, 5, 6], result.array[2, 14, 6]) == (1, 3)
    captured = capsys.readouterr()
    assert captured.err == ""  # a progress bar is for a person only
    assert captured.out.splitlines() == [
        "segmented slice k:2 (axial)",
        f"  1  Liver: {int((result.array == 1).sum())} pixels",
        f"  3  Spleen: {int((result.array == 3).sum())} pixels",
        f"wrote {tmp_path / 'out.seg.nrrd'}",
        f"wrote {tmp_path / 'picture.png'}",
    ]
    assert Image.open(tmp_path / "picture.png").size[0] >= 700


def test_the_network_is_shown_one_label_at_a_time_in_slices_normalised_alike(segment, painter, tmp_path, image):
    marks = (((2, 5, 4), 1), ((2, 14, 4), 2), ((2, 9, 9), 7), ((4, 14, 4), 2))
    segment(*strokes(tmp_path, *marks), "--background", "7", "--model", "other", "--device", "cuda")
    assert painter.asked_for == ("other", "cuda")
    seen = [[np.argwhere(part).tolist() for part in prompts.scribbles] for prompts in painter.prompts]
    assert seen == [[[[5, 4]], [[9, 9], [14, 4]]], [[[14, 4]], [[5, 4], [9, 9]]], [[[14, 4]], []]]
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(image)))
    assert [used for _, _, used in painter.images] == [IntensityRange.estimate(voxels)] * 2
    assert np.array_equal(painter.images[1][0], voxels[4])
    assert painter.images[0][1] == pytest.approx((0.7, 0.8))


ALONE = ["not used: prompts in 2 slices k:3-4", "segmented slice k:1 (axial)"]
BACKGROUND = [f"{ALONE[0]}, which mark background only", ALONE[1]]


@pytest.mark.parametrize(
    ("name", "options", "lines"),
    [
        ("s.nii.gz", ("--slice", "k:1"), ALONE),  # a grid that is the same but for the rounding of a NIfTI header
        ("s.nrrd", ("--background", "3"), BACKGROUND),
        ("s.seg.nrrd", ("--background", "Spleen"), BACKGROUND),
        ("s.nrrd", ("--slice", "j"), ["segmented 2 slices j:5,14 (coronal)"]),
        ("s.nrrd", ("--slice", "i"), ["segmented 2 slices i:4,6 (sagittal)"]),
    ],
)
def test_slices_that_are_segmented_or_left_alone_are_named(segment, tmp_path, capsys, name, options, lines):
    marks = (((1, 5, 4), 1), ((3, 14, 6), 3), ((4, 14, 6), 3))
    result = segment(*strokes(tmp_path, *marks, name=name, segments=NAMES if "seg" in name else None), *options)
    assert capsys.readouterr().out.splitlines()[: len(lines)] == lines
    assert result.labels_present() == ((1,) if "k:1" in lines[-1] else (1, 3))


def test_clicks_and_boxes_work_without_strokes(segment, capsys):
    result = segment("--click", "2,5,6,+1", "--click", "2,5,10,-", "--box", "2,12,3,3,15,9,+70000")
    assert [s.name for s in result.segments] == ["Segment_1", "Segment_70000"]
    assert result.segments[0].color_rgb != result.segments[1].color_rgb
    assert (result.array[2, 12:15, 3:9] == 70_000).all()
    assert result.array[2, 5, 6] == 1
    capsys.readouterr()
    assert not segment(*CLICK, "--threshold", "0.99999").array.any()
    assert "  1  Segment_1: 0 pixels, nothing found" in capsys.readouterr().out


def test_a_png_is_segmented_from_a_png_of_strokes_of_another_resolution(painter, tmp_path, rng):
    marks = np.zeros((20, 24), np.uint8)
    marks[4, 5:9] = 2
    for name, array, dpi in (("i", rng.integers(0, 255, (20, 24), dtype=np.uint8), 300), ("s", marks, 72)):
        Image.fromarray(array).save(tmp_path / f"{name}.png", dpi=(dpi, dpi))
    options = ("--scribbles", tmp_path / "s.png", "-o", tmp_path / "o.png", "--click", "4,6,+")
    assert run("segment", tmp_path / "i.png", *options, load=painter) == 0
    assert np.asarray(Image.open(tmp_path / "o.png"))[4, 6] == 2


class Doubler(Painter):
    """Finds every object a second time, mirrored."""

    def predict(self, prompts):
        logits = super().predict(prompts).logits
        return SimpleNamespace(logits=np.maximum(logits, logits[:, ::-1]))


@pytest.mark.parametrize("option", [(), ("--all-pieces",)])
def test_pieces_on_which_nothing_was_drawn_are_left_out_unless_asked_for(segment, option):
    labels = segment("--click", "2,5,4,+", *option, network=Doubler()).array[2]
    assert labels[5, 4] == 1
    assert (labels[5, -5] == 1) == bool(option)
    assert (segment("--box", "2,4,4,3,9,9").array[2, 4:9, 4:9] == 1).all()  # a box counts as drawn on


# What is refused.


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ((), "--scribbles, --click or --box"),
        ((*CLICK, "--background", "1"), "--background names a label of the scribbles"),
        ((*CLICK, "--threshold", "1.5"), "threshold is 1.5"),
        (("--scribbles", "none.nrrd"), "no such file"),
        (
            ("--scribbles", "{s}", "--background", "C"),
            "No segment of the scribbles is named 'C'; there are 'A', 'B', 'B'",
        ),
        (("--scribbles", "{s}", "--background", "B"), "Several segments are named 'B', of labels [2, 3]"),
        (("--scribbles", "{empty}"), "holds no stroke"),
        (("--scribbles", "{moved}"), "is not on the grid of"),
        (("--scribbles", "{stretched}"), "Resample it to the image"),
        (("--scribbles", "{overlapping}"), "overlap"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(segment, painter, tmp_path, capsys, options, match):
    moved, stretched = STRAIGHT.copy(), STRAIGHT @ np.diag((1, 1, 1.1, 1))
    moved[0, 3] += 2.0
    names = [Segment(1, "A", (1, 0, 0)), Segment(2, "B", (0, 1, 0)), Segment(3, "B", (0, 0, 1))]
    made = {
        "s": strokes(tmp_path, ((2, 5, 4), 1), ((2, 6, 6), 2), name="s.seg.nrrd", segments=names)[1],
        "empty": strokes(tmp_path, name="empty.nrrd")[1],
        "moved": strokes(tmp_path, ((2, 5, 4), 1), name="m.nrrd", ijk_to_ras=moved)[1],
        "stretched": strokes(tmp_path, ((2, 5, 4), 1), name="t.nrrd", ijk_to_ras=stretched)[1],
        "overlapping": tmp_path / "o.seg.nrrd",
    }
    layers = sitk.GetImageFromArray(np.ones((*SHAPE, 2), np.uint8), isVector=True)
    for key in ("Segment0_ID", "Segment1_ID"):
        layers.SetMetaData(key, key)
    sitk.WriteImage(layers, str(made["overlapping"]))
    segment(*(option.format(**made) for option in options), code=2)
    assert match in error_of(capsys)
    assert not (tmp_path / "out.seg.nrrd").exists()
    assert painter.asked_for is None


def test_a_failure_leaves_an_existing_output_as_it_was(segment, tmp_path):
    class Broken(Painter):
        def predict(self, prompts):
            raise PromptError("no")

    (tmp_path / "o.nrrd").write_bytes(b"precious")
    segment(*CLICK, "--overlay", tmp_path / "o.png", output="o.nrrd", network=Broken(), code=2)
    assert (tmp_path / "o.nrrd").read_bytes() == b"precious"
    assert {path.name for path in tmp_path.iterdir()} == {"image.nrrd", "o.nrrd"}


@pytest.mark.parametrize(
    ("output", "overlay", "match"),
    [
        ("out.xyz", "p.png", "unknown extension. Choose one of .seg.nrrd"),
        ("out.jpg", "p.png", "unknown extension"),
        ("missing/out.nrrd", "p.png", "missing does not exist"),
        ("folder.nrrd", "p.png", "it is a folder"),
        ("folder.nrrd/../sheared.nrrd", "p.png", "it is the file that is read"),
        ("out.nrrd", "p.jpg", "must end in .png"),
        ("out.nrrd", "missing/p.png", "does not exist"),
        ("out.png", "out.png", "would be the same file"),
        ("out.png", "p.png", ".png holds one slice, the image has 10"),
        ("out.nii.gz", "p.png", "not at right angles, which .nii.gz"),
    ],
)
def test_outputs_that_cannot_be_written_are_refused_before_any_work(tmp_path, painter, capsys, output, overlay, match):
    (tmp_path / "folder.nrrd").mkdir()
    sheared = STRAIGHT + np.eye(4, k=1) * 0.5
    write_labelmap(tmp_path / "sheared.nrrd", Volume(np.zeros(SHAPE, np.uint8), sheared))
    options = (*CLICK, "-o", tmp_path / output, "--overlay", tmp_path / overlay)
    assert run("segment", tmp_path / "sheared.nrrd", *options, load=painter) == 2
    assert match in error_of(capsys)
    assert painter.asked_for is None


# Labelled prompts ---------------------------------------------------------------------------------------------------


SMALL = (4, 5, 6)


def made_of(marks: dict[tuple[int, int, int], int], shape: tuple[int, int, int] = SMALL) -> Strokes:
    labels = np.zeros(shape, np.uint8)
    for index, label in marks.items():
        labels[index] = label
    return Strokes.of(Volume(labels, np.eye(4)))


NOTHING = made_of({})


def clicks(*texts):
    return [read_click(text) for text in texts]


def test_clicks_mean_what_their_sign_and_label_say():
    given = clicks("1,0,0,+1", "1,0,1,+2", "1,0,2,-2", "1,0,3,-", "2,0,4,+1")
    piece = LabelledPrompts(NOTHING, given).in_slice(0, 1)
    assert piece.labels == (1, 2)
    assert LabelledPrompts(made_of({(0, 0, 0): 7}), clicks("0,1,1,+")).in_slice(0, 0).labels == (7,)  # the only one

    def said(label: int) -> dict[tuple[int, ...], int]:
        prompts = piece.prompts(label)
        return dict(zip(map(tuple, prompts.point_coords.tolist()), prompts.point_labels.tolist(), strict=True))

    assert said(1) == {(0, 0): 1, (0, 1): 0, (0, 3): 0}
    assert said(2) == {(0, 0): 0, (0, 1): 1, (0, 2): 0, (0, 3): 0}


def test_a_box_reaches_into_every_slice_it_spans_and_an_image_of_one_slice_takes_two_indices():
    prompts = LabelledPrompts(NOTHING, [read_box("1,0,2,3,4,5,+2")])
    assert prompts.find_slices() == (0, [1, 2])
    assert prompts.in_slice(0, 2).prompts(2).boxes.tolist() == [[[0, 2], [4, 5]]]
    assert prompts.in_slice(1, 3).prompts(2).boxes.tolist() == [[[1, 2], [3, 5]]]
    assert prompts.in_slice(0, 3).labels == ()
    prompts = LabelledPrompts(Strokes((1, 5, 6)), [read_click("4,5,+"), read_box("0,0,5,6")]).in_slice(0, 0).prompts(1)
    assert (prompts.point_coords.tolist(), prompts.boxes.tolist()) == ([[4, 5]], [[[0, 0], [5, 6]]])


@pytest.mark.parametrize(
    ("painted", "background", "given", "said"),
    [
        ({(1, 2, 3): 1}, None, ["1,2,3,+2"], r"a stroke of label 1 and a click \+2"),
        ({(1, 2, 3): 1}, None, ["1,2,3,-1"], "a stroke of label 1 and a click -1"),
        ({(1, 2, 3): 9, (0, 0, 0): 1}, 9, ["1,2,3,+1"], r"a stroke of label 9 and a click \+1"),
        ({}, None, ["1,2,3,+1", "1,2,3,+2"], r"a click \+1 and a click \+2"),
        ({}, None, ["1,2,3,-", "1,2,3,+1"], r"a click - and a click \+1"),
        ({(1, 2, 3): 1}, None, ["1,2,3,+1"], None),
        ({(1, 2, 3): 1, (0, 0, 0): 2}, None, ["1,2,3,-2"], None),
        ({(1, 2, 3): 9, (0, 0, 0): 1}, 9, ["1,2,3,-"], None),
        ({}, None, ["1,2,3,+1", "1,2,3,-2", "0,0,0,+2"], None),
    ],
)
def test_only_prompts_that_agree_may_share_a_pixel(painted, background, given, said):
    if said is None:
        LabelledPrompts(made_of(painted), clicks(*given), background)
        return
    with pytest.raises(PromptError, match=rf"Two labels on one pixel: 1,2,3 has .*{said}\."):
        LabelledPrompts(made_of(painted), clicks(*given), background)


@pytest.mark.parametrize(
    ("painted", "choice", "expected"),
    [
        ({(1, 0, 0): 1, (1, 4, 5): 1}, None, (0, [1])),
        ({(1, 0, 0): 1, (3, 4, 5): 1}, None, (0, [1, 3])),
        ({(1, 2, 0): 1, (3, 2, 5): 1}, None, (1, [2])),
        ({(1, 0, 4): 1, (3, 2, 4): 1}, None, (2, [4])),
        ({(1, 2, 3): 1}, None, (0, [1])),
        ({(1, 2, 0): 1, (3, 2, 5): 1}, (0, None), (0, [1, 3])),
        ({(1, 2, 0): 1, (3, 2, 5): 1}, (2, 5), (2, [5])),
        ({(1, 2, 0): 1, (2, 0, 0): 9, (3, 2, 5): 1}, None, (0, [1, 3])),
    ],
)
def test_slices_are_found_from_the_strokes(painted, choice, expected):
    background = 9 if 9 in painted.values() else None
    prompts = LabelledPrompts(made_of(painted), background=background)
    assert prompts.find_slices(choice) == expected
    axis, indices = expected
    assert prompts.unused_slices(axis, indices) == sorted({index[axis] for index in painted} - set(indices))


ONE = {(1, 0, 0): 1}
TWO = {**ONE, (2, 4, 4): 1}


@pytest.mark.parametrize(
    ("painted", "marks", "choice", "match"),
    [
        ({}, clicks("4,0,0,+"), None, r"Click 4,0,0 is outside the image of shape \(4, 5, 6\)"),
        ({}, clicks("0,0,+"), None, "Click 0,0 has 2 indices"),
        ({}, [read_box("0,0,0,1,6,6")], None, "Box from 0,0,0 to 1,6,6 is outside .*; the stop is excluded"),
        ({}, [read_box("0,3,0,1,3,6")], None, "reversed or empty"),
        ({}, clicks("0,0,0,-"), None, "Only background is marked"),
        ({}, clicks("0,0,0,+", "0,0,1,-1", "0,0,2,-3"), None, r"click 0,0,0 does not say .*, as in \+3"),
        ({**ONE, (0, 0, 1): 2}, [read_box("1,1,1,2,2,2")], None, "box from 1,1,1 to 2,2,2 does not say which"),
        ({}, clicks("0,0,0,+1", "0,0,2,-3"), None, "Label 3 has negative clicks only"),
        ({}, [], None, "no stroke, click or box"),
        ({(0, 0, 0): 9}, [], None, "Only background is marked"),
        ({(0, 0, 0): 9}, clicks("1,1,1,+9"), None, "Label 9 is the background"),
        ({(0, 2, 3): 1, (1, 2, 3): 1}, [], None, "on the line j = 2, i = 3.*--slice j:2 or --slice i:3"),
        (TWO, [], (0, 4), "Slice k:4 is outside .* from 0 to 3"),
        (TWO, [], (0, 0), "Nothing points at an object in slice k:0; .* are in k:1, k:2"),
        ({**ONE, (3, 0, 0): 9}, [], (0, 3), "Nothing points"),
        (ONE, clicks("2,0,0,-"), (0, 1), "Click 2,0,0 does not lie in the chosen slice k:1"),
        (ONE, [read_box("2,0,0,4,2,2,+1")], (0, 1), "Box from 2,0,0 to 4,2,2 does not lie"),
    ],
)
def test_prompts_that_cannot_be_meant_are_refused(painted, marks, choice, match):
    with pytest.raises(PromptError, match=match):
        LabelledPrompts(made_of(painted), marks, 9 if 9 in painted.values() else None).find_slices(choice)
    with pytest.raises(PromptError, match=r"No stroke has the background label 4; there are \[1\]"):
        LabelledPrompts(made_of(ONE), background=4)
