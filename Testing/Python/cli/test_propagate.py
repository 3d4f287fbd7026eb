from __future__ import annotations

import numpy as np
import pytest
from command_line import STRAIGHT, error_of, paint, run, write_image
from propagation_phantoms import dice
from slice_predictors import Brightness

from scribblesegment import Segment, Volume, read_labelmap, write_labelmap
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.files import write_context_file
from scribblesegment.context.store import FOLDER_VARIABLE

SHAPE = (20, 24, 30)
NAMES = [Segment(1, "Liver", (0.8, 0.5, 0.4)), Segment(3, "Spleen", (0.2, 0.5, 0.9))]


def ball(centre):
    return ((np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(axis=0) < 5.5**2


LIVER, SPLEEN = ball((9, 11, 8)), ball((10, 11, 21))
LABELS = (LIVER + 3 * SPLEEN).astype(np.uint8)


class Network(Brightness):
    """Stands in for a network, for what loads it, and for a user who presses Ctrl-C after so many slices."""

    def __init__(self, interrupted_after=10**9):
        super().__init__()
        self.after = interrupted_after

    def __call__(self, name, *, device):
        self.asked_for = (name, device)
        return self

    def see(self, prompts):
        if len(self.prompts) > self.after:
            raise KeyboardInterrupt
        if prompts.mask_input is None:  # strokes alone
            prompts = prompts.with_mask_input(np.zeros(prompts.shape))
        return super().see(prompts)


def slices_of(labels, axis, indices):
    some = np.zeros_like(labels)
    for index in indices:
        np.moveaxis(some, axis, 0)[index] = np.moveaxis(labels, axis, 0)[index]
    return some


@pytest.fixture
def propagate(tmp_path):
    """Propagates annotated slices of `labels` to `all.seg.nrrd`, and gives the result's voxels."""
    write_image(tmp_path / "image.nrrd", (100 * (LABELS > 0)).astype(np.int16))

    def propagate(*options, labels=LABELS, axis=0, indices=(7, 12), names=NAMES, network=None, code=0):
        few = paint(tmp_path / "few.seg.nrrd", [], shape=SHAPE)
        some = slices_of(labels, axis, indices)
        if names:
            paint(few, [(..., some)], shape=SHAPE, segments=names)
        else:
            few = tmp_path / "few.nrrd"
            write_labelmap(few, Volume(some, STRAIGHT))
        arguments = (tmp_path / "image.nrrd", "--annotated", few, "-o", tmp_path / "all.seg.nrrd", *options)
        assert run("propagate", *arguments, load=network or Network()) == code
        return read_labelmap(tmp_path / "all.seg.nrrd").array if (tmp_path / "all.seg.nrrd").exists() else None

    return propagate


def held(labels):
    return np.flatnonzero(labels.any(axis=(1, 2))).tolist()


def test_two_segments_are_propagated_with_their_names_and_colours(propagate, tmp_path, capsys):
    found = propagate()
    result = read_labelmap(tmp_path / "all.seg.nrrd")
    assert np.allclose(result.ijk_to_ras, STRAIGHT)
    assert [(one.label, one.name) for one in result.segments] == [(1, "Liver"), (3, "Spleen")]
    assert result.segments[1].color_rgb == pytest.approx((0.2, 0.5, 0.9))
    assert dice(found == 1, LIVER) > 0.95
    assert dice(found == 3, SPLEEN) > 0.95
    assert all(np.array_equal(found[index], LABELS[index]) for index in (7, 12))
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == "annotated: 2 slices k:7,12 (axial)"
    assert lines[1].startswith("  1  Liver: 9 slices k:4-6,8-11,13-14; confidence 0.9")
    assert "; before k:4 the structure ends; after k:14 the structure ends; next slice worth correcting: " in lines[1]
    assert lines[2].startswith("  3  Spleen: ")
    assert lines[3].endswith("slices per second")
    assert lines[4] == f"wrote {tmp_path / 'all.seg.nrrd'}"


@pytest.mark.parametrize(("axis", "indices", "name"), [(1, (8, 13), "j"), (2, (6, 10), "i")])
def test_slices_along_another_axis_are_found_to_lie_along_it(propagate, capsys, axis, indices, name):
    labels = LIVER.astype(np.uint32) * 70_000  # a large number is kept
    assert dice(propagate(labels=labels, axis=axis, indices=indices, names=()) == 70_000, LIVER) > 0.95
    assert capsys.readouterr().out.startswith(f"annotated: 2 slices {name}:{indices[0]},{indices[1]} (")


def test_options_reach_network_and_propagation(propagate):
    network = Network()
    few = propagate("--weights", "other", "--device", "cuda", "--threshold", "0.999999", network=network)
    assert network.asked_for == ("other", "cuda")
    assert np.count_nonzero(few) < np.count_nonzero(propagate("--threshold", "0.000001"))
    assert held(propagate("--range", "6-10")) == [6, 7, 8, 9, 10, 12]
    labels = LABELS.copy()
    labels[7][labels[7] == 3] = 0  # a segment that is missing in a slice is absent there only if slices are complete
    assert {6, 7} < set(held(propagate(labels=labels) == 3))
    assert min(held(propagate("--complete", labels=labels) == 3)) == 8


def test_what_is_done_when_interrupted_is_written_and_said(propagate, capsys):
    assert propagate(network=Network(0), code=130) is None
    capsys.readouterr()
    found = held(propagate(network=Network(8), code=130))
    captured = capsys.readouterr()
    assert captured.err.strip() == "interrupted"
    assert "with what was done until the interruption" in captured.out
    assert "cancelled" in captured.out
    assert {7, 12} < set(found) <= set(range(4, 16))
    assert len(found) == 6


@pytest.mark.parametrize(
    ("options", "changes", "match"),
    [
        (("--range", "0-20"), {}, "outside the volume"),
        ((), {"indices": ()}, "holds no annotated slice"),
        ((), {"indices": range(20)}, "Give --axis"),
        (("--annotated", "{other}"), {}, "Resample it to the image"),
        (("--context", "no such task"), {}, "'no such task' is neither a file or folder nor a task"),
        (("--context", "{gall}"), {}, "0 segments have that name; there are 'Liver', 'Spleen'"),
        (("--context", "{liver}"), {"names": [NAMES[0], Segment(3, "liver ", (0, 0, 0))]}, "2 segments have that name"),
        (("--context", "{liver}", "--context", "{liver}"), {}, "Two context sets are for the segment 'Liver'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    propagate, tmp_path, monkeypatch, capsys, options, changes, match
):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "store"))
    made = {n: context(tmp_path, n) for n in ("liver", "gall")}
    made["other"] = paint(tmp_path / "other.nrrd", [(..., 1)], shape=(20, 24, 31))
    assert propagate(*(option.format(**made) for option in options), code=2, **changes) is None
    assert match in error_of(capsys)


def context(folder, name):
    entry = ContextEntry(np.zeros((20, 20), np.float32), np.ones((20, 20), bool), (1.0, 1.0), source="other")
    write_context_file(folder / f"{name}.context.zip", ContextSet(name, (entry,)))
    return folder / f"{name}.context.zip"


def test_context_sets_are_shown_for_the_segments_of_their_names(propagate, tmp_path):
    network = Network()
    propagate("--context", context(tmp_path, "spleen"), network=network)
    shown = {one.label_name: [entry.source for entry in one] for one in network.contexts if one}
    assert shown == {"Liver": ["image.nrrd", "image.nrrd"], "spleen": ["other", "image.nrrd", "image.nrrd"]}
    network = Network()
    propagate("--context", context(tmp_path, "gall"), labels=LIVER.astype(np.uint8), network=network)
    assert "gall" in {one.label_name for one in network.contexts if one}  # a single segment takes any set


def test_strokes_are_enough_to_start_from(tmp_path, capsys):
    image = write_image(tmp_path / "image.nrrd", (100 * (LABELS > 0)).astype(np.int16))
    marks = [((9, slice(10, 13), slice(6, 11)), 1), ((10, slice(10, 13), slice(19, 24)), 3)]
    strokes = paint(tmp_path / "strokes.seg.nrrd", marks, shape=SHAPE, segments=NAMES)
    out = tmp_path / "all.seg.nrrd"
    assert run("propagate", image, "--scribbles", strokes, "-o", out, load=Network()) == 0
    assert "annotated: 2 slices k:9-10" in capsys.readouterr().out
    found = read_labelmap(out)
    assert [segment.name for segment in found.segments] == ["Liver", "Spleen"]
    for label, expected in ((1, LIVER), (3, SPLEEN)):
        assert dice(found.array == label, expected) > 0.9
    for start in ((), ("--scribbles", strokes, "--annotated", strokes)):
        assert run("propagate", image, *start, "-o", out, load=Network()) == 2
        assert "either --annotated or --scribbles" in error_of(capsys)


@pytest.mark.parametrize("crossing", [True, False])
def test_strokes_of_other_views_are_prompts_of_the_slices_they_cross(tmp_path, capsys, crossing):
    image = write_image(tmp_path / "image.nrrd", (100 * (LABELS > 0)).astype(np.int16))
    marks = [
        ((9, slice(10, 13), slice(6, 11)), 1),  # axial, and a sagittal one through it
        ((slice(6, 12), slice(10, 13), 8), 1),
        ((10, slice(10, 13), slice(19, 24)), 3),  # another axial one, and a coronal one apart from it
        ((slice(2, 17), 2, slice(25, 27)), 3),
    ]
    strokes = paint(tmp_path / "strokes.seg.nrrd", marks, shape=SHAPE, segments=NAMES)
    out, network = tmp_path / "all.seg.nrrd", Network()
    options = () if crossing else ("--no-crossing",)
    assert run("propagate", image, "--scribbles", strokes, "-o", out, *options, load=network) == 0
    assert "annotated: 2 slices k:9-10" in capsys.readouterr().out
    crossed = [prompts.scribbles for prompts in network.prompts if prompts.mask_input is not None]
    assert (max(one[0].sum() for one in crossed) > 0) == crossing
    assert any(one[0, 10:13, 8].all() and one[1, 2, 25:27].all() for one in crossed) == crossing


@pytest.mark.parametrize("axis", [1, 2])
def test_strokes_in_one_other_view_are_propagated_along_its_axis(tmp_path, capsys, axis):
    image = write_image(tmp_path / "image.nrrd", (100 * LIVER).astype(np.int16))
    boxes = [[slice(6, 12), slice(9, 13), slice(6, 10)] for _ in range(2)]
    for box, shift in zip(boxes, (0, 3), strict=True):
        box[axis] = (None, 10, 7)[axis] + shift
    strokes = paint(tmp_path / "strokes.nrrd", [(tuple(box), 1) for box in boxes], shape=SHAPE)
    assert run("propagate", image, "--scribbles", strokes, "-o", tmp_path / "all.nrrd", load=Network()) == 0
    first = (None, 10, 7)[axis]
    assert f"annotated: 2 slices {'kji'[axis]}:{first},{first + 3}" in capsys.readouterr().out
    assert dice(read_labelmap(tmp_path / "all.nrrd").array == 1, LIVER) > 0.9
