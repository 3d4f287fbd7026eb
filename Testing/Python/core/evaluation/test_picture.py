from __future__ import annotations

import sys
import warnings

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, FileFormatError, MissingDependencyError
from scribblesegment.evaluation.datasets import Example
from scribblesegment.evaluation.picture import write_predictions
from scribblesegment.evaluation.protocols import Illustration

GREEN, RED, YELLOW, BLUE = (0, 1, 0), (1, 0, 0), (1, 0.85, 0.1), (0.2, 0.6, 1)


@pytest.fixture
def illustration():
    scribbles = np.zeros((2, 64, 64), np.float32)
    scribbles[0, 20:26, 20:40] = scribbles[1, 5:9, 5:60] = 1
    reference = np.zeros((64, 64), dtype=bool)
    reference[16:40, 16:44] = True
    example = Example("heart", "", 0, 0, np.full((64, 64), 0.5, np.float32), scribbles, reference)
    return Illustration(example, {"shifted": np.roll(reference, 4, axis=0)}, {"shifted": 0.83})


def pixels(path):
    image = pytest.importorskip("matplotlib.image")
    return image.imread(path)[..., :3]


def close_to(picture, color, tolerance=0.25):
    return int((np.abs(picture - color).max(axis=2) < tolerance).sum())


def test_strokes_outlines_and_masks_are_drawn_in_their_colours(tmp_path, illustration):
    pytest.importorskip("matplotlib")
    write_predictions(tmp_path / "out.png", [illustration])
    picture = pixels(tmp_path / "out.png")
    strokes, prediction = np.array_split(picture[60:-80], 2, axis=1)
    assert close_to(strokes, GREEN, 0.35) > 500
    assert close_to(strokes, RED, 0.3) > 500
    assert close_to(strokes, YELLOW) > 100
    assert close_to(prediction, GREEN, 0.35) == close_to(prediction, RED, 0.3) == 0
    assert close_to(prediction, YELLOW) > 100
    assert close_to(prediction, BLUE) > 100
    filled = prediction[prediction.shape[0] // 2, prediction.shape[1] // 2]
    assert filled[2] > filled[0] + 0.1


def test_each_task_adds_a_row_and_each_method_a_column(tmp_path, illustration):
    pytest.importorskip("matplotlib")
    two = Illustration(
        illustration.example,
        {**illustration.masks, "runs/best.safetensors": illustration.example.reference},
        {**illustration.dice, "runs/best.safetensors": 1.0},
    )
    write_predictions(tmp_path / "one.png", [illustration])
    write_predictions(tmp_path / "wide.png", [two])
    write_predictions(tmp_path / "tall.png", [illustration, illustration])
    one, wide, tall = (pixels(tmp_path / f"{name}.png").shape for name in ("one", "wide", "tall"))
    assert wide[0] == one[0]
    assert tall[1] == one[1]
    assert wide[1] - one[1] == pytest.approx(tall[0] - one[0], abs=2)


def test_empty_and_full_masks_are_drawn_without_warning(tmp_path, illustration):
    pytest.importorskip("matplotlib")
    masks = {"empty": np.zeros((64, 64), dtype=bool), "full": np.ones((64, 64), dtype=bool)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_predictions(tmp_path / "out.png", [Illustration(illustration.example, masks, dict.fromkeys(masks, 0.0))])
    assert close_to(pixels(tmp_path / "out.png"), RED, 0.3) > 0


def test_drawing_leaves_no_figure_behind_and_chooses_no_window_system(tmp_path, illustration, monkeypatch):
    pytest.importorskip("matplotlib")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    write_predictions(tmp_path / "out.png", [illustration])
    assert [path.name for path in tmp_path.iterdir()] == ["out.png"]


def test_nothing_to_draw_is_refused(tmp_path, illustration):
    pytest.importorskip("matplotlib")
    for nothing in ([], [Illustration(illustration.example)]):
        with pytest.raises(ConfigError, match="no prediction to draw"):
            write_predictions(tmp_path / "out.png", nothing)


def test_a_missing_folder_is_refused(tmp_path, illustration):
    pytest.importorskip("matplotlib")
    with pytest.raises(FileFormatError, match="does not exist"):
        write_predictions(tmp_path / "nowhere" / "out.png", [illustration])


def test_without_matplotlib_the_error_says_what_to_install(tmp_path, illustration, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match=r"scribblesegment\[evaluation\]"):
        write_predictions(tmp_path / "out.png", [illustration])
