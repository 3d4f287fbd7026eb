from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from slice_predictors import Brightness

from scribblesegment import PromptError, Segment, Volume, cli, read_labelmap, write_labelmap, write_segmentation
from scribblesegment.commands.propagate import annotated_axis, annotated_slices
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.context.files import write_context_file
from scribblesegment.context.store import FOLDER_VARIABLE

SHAPE = (20, 24, 30)
MATRIX = np.array([[-0.8, 0, 0, 12.0], [0, -0.7, 0, -5.0], [0, 0, 1.5, 7.0], [0, 0, 0, 1.0]])
NAMES = [Segment(1, "Liver", (0.8, 0.5, 0.4)), Segment(3, "Spleen", (0.2, 0.5, 0.9))]


def ball(centre, radius=5.5):
    return ((np.indices(SHAPE) - np.reshape(centre, (3, 1, 1, 1))) ** 2).sum(axis=0) < radius**2


LIVER, SPLEEN = ball((9, 11, 8)), ball((10, 11, 21))
LABELS = (LIVER + 3 * SPLEEN).astype(np.uint8)


class Network(Brightness):
    """Stands in for a network and for what loads it."""

    def __call__(self, name, *, device, progress):
        self.asked_for = (name, device)
        return self


class Interrupted(Network):
    """The user presses Ctrl-C after so many slices."""

    def __init__(self, after):
        super().__init__()
        self.after = after

    def see(self, prompts):
        if len(self.prompts) > self.after:
            raise KeyboardInterrupt
        return super().see(prompts)


@pytest.fixture
def image(tmp_path):
    lps = np.diag((-1.0, -1.0, 1.0, 1.0)) @ MATRIX
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    written = sitk.GetImageFromArray((100 * (LABELS > 0)).astype(np.int16))
    written.SetSpacing(spacing.tolist())
    written.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    written.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(written, str(tmp_path / "image.nrrd"))
    return tmp_path / "image.nrrd"


def annotate(path, axis=0, indices=(7, 12), labels=LABELS):
    some = np.zeros_like(labels)
    for index in indices:
        np.moveaxis(some, axis, 0)[index] = np.moveaxis(labels, axis, 0)[index]
    if path.name.endswith(".seg.nrrd"):
        write_segmentation(path, Volume(some, MATRIX), NAMES)
    else:
        write_labelmap(path, Volume(some, MATRIX))
    return path


def run(image, annotated, output, *options, network=None):
    arguments = ["propagate", image, "--annotated", annotated, "-o", output, *options]
    return cli.main([str(argument) for argument in arguments], load=network or Network())


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())


def error_of(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line


def test_two_segments_are_propagated_with_their_names_and_colours(image, tmp_path, capsys):
    annotated = annotate(tmp_path / "few.seg.nrrd")
    assert run(image, annotated, tmp_path / "all.seg.nrrd") == 0
    result = read_labelmap(tmp_path / "all.seg.nrrd")
    assert np.allclose(result.ijk_to_ras, MATRIX)
    assert [(one.label, one.name) for one in result.segments] == [(1, "Liver"), (3, "Spleen")]
    assert result.segments[1].color_rgb == pytest.approx((0.2, 0.5, 0.9))
    assert dice(result.array == 1, LIVER) > 0.95
    assert dice(result.array == 3, SPLEEN) > 0.95
    for index in (7, 12):
        assert np.array_equal(result.array[index], LABELS[index])
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = captured.out.splitlines()
    assert lines[0] == "annotated: 2 slices k:7,12 (axial)"
    assert lines[1].startswith("  1  Liver: 9 slices k:4-6,8-11,13-14; confidence 0.9")
    assert "the structure ends" in lines[1]
    assert "next slice worth correcting: " in lines[1]
    assert lines[2].startswith("  3  Spleen: ")
    assert lines[3].endswith("slices per second")
    assert lines[4] == f"wrote {tmp_path / 'all.seg.nrrd'}"


@pytest.mark.parametrize(("axis", "name"), [(1, "j"), (2, "i")])
def test_slices_along_another_axis_are_found_to_lie_along_it(image, tmp_path, capsys, axis, name):
    indices = (8, 13) if axis == 1 else (6, 10)
    annotated = annotate(tmp_path / "few.nrrd", axis, indices)
    assert run(image, annotated, tmp_path / "all.nrrd") == 0
    assert capsys.readouterr().out.startswith(f"annotated: 2 slices {name}:{indices[0]},{indices[1]} (")
    assert dice(read_labelmap(tmp_path / "all.nrrd").array == 1, LIVER) > 0.95


def test_only_the_range_is_segmented(image, tmp_path):
    run(image, annotate(tmp_path / "few.nrrd"), tmp_path / "all.nrrd", "--range", "6-10")
    held = np.flatnonzero(read_labelmap(tmp_path / "all.nrrd").array.any(axis=(1, 2)))
    assert held.tolist() == [6, 7, 8, 9, 10, 12]


def test_model_device_and_threshold_are_passed_on(image, tmp_path):
    annotated, network = annotate(tmp_path / "few.nrrd"), Network()
    run(image, annotated, tmp_path / "a.nrrd", "--weights", "other", "--device", "cuda", network=network)
    assert network.asked_for == ("other", "cuda")
    few, many = (
        run(image, annotated, tmp_path / "b.nrrd", "--threshold", p)
        or read_labelmap(tmp_path / "b.nrrd").array.astype(bool).sum()
        for p in ("0.999999", "0.000001")
    )
    assert few < many


def test_a_segment_missing_in_a_slice_is_absent_there_only_if_slices_are_complete(image, tmp_path):
    labels = LABELS.copy()
    labels[7][labels[7] == 3] = 0
    annotated = annotate(tmp_path / "few.nrrd", labels=labels)
    held = []
    for options in ((), ("--complete",)):
        run(image, annotated, tmp_path / "all.nrrd", *options)
        held.append(set(np.flatnonzero((read_labelmap(tmp_path / "all.nrrd").array == 3).any(axis=(1, 2)))))
    assert 7 in held[0]
    assert 6 in held[0]
    assert min(held[1]) == 8


def test_a_context_file_is_shown_to_the_network(image, tmp_path):
    other = ContextEntry(np.zeros((20, 20), np.float32), np.ones((20, 20), bool), (1.0, 1.0), source="other")
    write_context_file(tmp_path / "spleen.context.zip", ContextSet("spleen", (other,)))
    network = Network()
    annotated = annotate(tmp_path / "few.seg.nrrd")
    assert (
        run(image, annotated, tmp_path / "o.seg.nrrd", "--context", tmp_path / "spleen.context.zip", network=network)
        == 0
    )
    shown = {context.label_name: [entry.source for entry in context] for context in network.contexts if context}
    assert shown == {"Liver": ["image.nrrd", "image.nrrd"], "spleen": ["other", "image.nrrd", "image.nrrd"]}


def test_a_context_that_does_not_exist_is_one_line_and_exit_code_2(image, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "store"))
    assert run(image, annotate(tmp_path / "few.nrrd"), tmp_path / "o.nrrd", "--context", "no such task") == 2
    assert "'no such task' is neither" in error_of(capsys)
    assert not (tmp_path / "o.nrrd").exists()


def test_what_is_done_when_interrupted_is_written_and_said(image, tmp_path, capsys):
    annotated = annotate(tmp_path / "few.seg.nrrd")
    assert run(image, annotated, tmp_path / "all.seg.nrrd", network=Interrupted(8)) == 130
    captured = capsys.readouterr()
    assert captured.err.strip() == "interrupted"
    assert "with what was done until the interruption" in captured.out
    assert "cancelled" in captured.out
    held = np.flatnonzero(read_labelmap(tmp_path / "all.seg.nrrd").array.any(axis=(1, 2)))
    assert {7, 12} < set(held.tolist()) <= set(range(4, 16))
    assert len(held) == 6


def test_interrupted_before_anything_is_done_nothing_is_written(image, tmp_path, capsys):
    assert run(image, annotate(tmp_path / "few.nrrd"), tmp_path / "all.nrrd", network=Interrupted(0)) == 130
    assert not (tmp_path / "all.nrrd").exists()
    assert "interrupted" in capsys.readouterr().err


def test_large_label_numbers_are_kept(image, tmp_path):
    annotated = annotate(tmp_path / "few.nrrd", labels=LIVER.astype(np.uint32) * 70_000)
    run(image, annotated, tmp_path / "all.nrrd")
    assert read_labelmap(tmp_path / "all.nrrd").labels_present() == (70_000,)


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("--axis", "x", "'x' is no axis"),
        ("--axis", "kj", "no axis"),
        ("--range", "5", "no range"),
        ("--range", "9-5", "no range"),
        ("--range", "-1-5", "no range"),
        ("--threshold", "half", "invalid float"),
    ],
)
def test_an_argument_that_cannot_be_read_is_refused_in_one_line(option, value, match, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["propagate", "i.nrrd", "--annotated", "s.nrrd", "-o", "o.nrrd", f"{option}={value}"])
    assert stopped.value.code == 2
    assert match in error_of(capsys)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (["--range", "0-20"], "outside the volume"),
        (["--threshold", "1"], "threshold"),
        (["--axis", "k", "--range", "30-40"], "outside the volume"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(image, tmp_path, capsys, options, match):
    assert run(image, annotate(tmp_path / "few.nrrd"), tmp_path / "o.nrrd", *options) == 2
    assert match in error_of(capsys)
    assert not (tmp_path / "o.nrrd").exists()


def test_an_annotation_on_another_grid_is_refused(image, tmp_path, capsys):
    write_labelmap(tmp_path / "s.nrrd", Volume(np.ones((20, 24, 31), np.uint8), MATRIX))
    assert run(image, tmp_path / "s.nrrd", tmp_path / "o.nrrd") == 2
    assert "Resample it to the image" in error_of(capsys)


def test_an_annotation_without_labels_is_refused(image, tmp_path, capsys):
    assert run(image, annotate(tmp_path / "s.nrrd", indices=()), tmp_path / "o.nrrd") == 2
    assert "holds no annotated slice" in error_of(capsys)


@pytest.mark.parametrize("name", ["image.nrrd", "few.nrrd", "o.xyz", "missing/o.nrrd"])
def test_an_output_that_cannot_be_written_is_refused(image, tmp_path, capsys, name):
    assert run(image, annotate(tmp_path / "few.nrrd"), tmp_path / name) == 2
    assert "Cannot write" in error_of(capsys)


def test_a_failure_leaves_an_existing_output_as_it_was(image, tmp_path):
    class Broken(Network):
        def see(self, prompts):
            raise PromptError("no")

    (tmp_path / "o.nrrd").write_bytes(b"precious")
    assert run(image, annotate(tmp_path / "few.nrrd"), tmp_path / "o.nrrd", network=Broken()) == 2
    assert (tmp_path / "o.nrrd").read_bytes() == b"precious"


def test_help_documents_the_exit_codes_and_understands_its_examples(capsys):
    with pytest.raises(SystemExit):
        cli.main(["propagate", "--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {code} " in text for code in (0, 2, 1, 130))
    examples = [line.split()[1:] for line in text.splitlines() if line.startswith("  scribblesegment ")]
    assert len(examples) == 3
    for example in examples:
        assert cli._parser().parse_args(example).command == "propagate"


# Finding the axis.


def labelmap(axis, indices, structure=LIVER):
    some = np.zeros(SHAPE, np.uint8)
    for index in indices:
        np.moveaxis(some, axis, 0)[index] = np.moveaxis(structure, axis, 0)[index]
    return Volume(some, MATRIX)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("offsets", [(0,), (-3, 3), (-2, 0, 2), (-1, 0), (-4, -2, 1, 3)])
def test_the_axis_along_which_few_slices_have_labels_is_found(axis, offsets):
    middle = (9, 11, 8)[axis]
    assert annotated_axis(labelmap(axis, [middle + offset for offset in offsets])) == axis


def test_two_organs_side_by_side_do_not_look_like_slices():
    assert annotated_axis(labelmap(0, (8, 9, 10), LIVER | SPLEEN)) == 0


def test_a_whole_structure_has_no_annotated_slices():
    with pytest.raises(PromptError, match=r"11 slices k:4-14.*Give --axis"):
        annotated_axis(labelmap(0, range(20)))


def test_an_axis_with_a_single_slice_leads_nowhere():
    labels = np.zeros((1, 24, 30), np.uint8)
    labels[0, 5:15, 8] = labels[0, 5:15, 20] = 1
    assert annotated_axis(Volume(labels, MATRIX)) == 2


def test_masks_are_cut_by_label_and_slice():
    labels = LABELS.copy()
    labels[7][labels[7] == 3] = 0
    found = annotated_slices(labelmap(0, (7, 12), labels), 0, NAMES, complete=False)
    assert {label: sorted(masks) for label, masks in found.items()} == {1: [7, 12], 3: [12]}
    assert np.array_equal(found[1][7], LIVER[7])
    complete = annotated_slices(labelmap(0, (7, 12), labels), 0, NAMES, complete=True)
    assert not complete[3][7].any()
