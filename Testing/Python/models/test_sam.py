"""ScribblePrompt-SAM: what the published implementation computed, and the network behind a predictor."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from scribblesegment import IntensityRange, Prompts, load_predictor
from scribblesegment.errors import ConfigError
from scribblesegment.models.factory import build_network
from scribblesegment.models.sam import TRAINED_SIDE, stroke_points
from scribblesegment.weights.checkpoints import recognise

TINY = {
    "image_size": 128, "width": 48, "depth": 4, "heads": 4, "global_blocks": [1, 3], "window": 3, "prompt_width": 32,
    "decoder_hidden": 64, "decoder_heads": 4,
}  # fmt: skip
SIDE = 32  # of its logits


@pytest.fixture(scope="module")
def vectors(shared_dir):
    with np.load(shared_dir / "golden" / "scribbleprompt_sam.npz") as file:
        return {key: torch.tensor(file[key]) for key in file if file[key].dtype.kind != "U"}


@pytest.fixture
def published(vectors):
    network = build_network("scribbleprompt_sam", TINY).eval()
    network.load_state_dict({key[3:]: value for key, value in vectors.items() if key.startswith("w::")})
    return network


def given(vectors, case):
    """Points, labels and box of a case, as `decode` takes them."""
    size, points, labels, box = torch.tensor([80.0, 96.0]), torch.empty(0, 2), torch.empty(0, dtype=int), None
    if "clicks" in case:
        points, labels = vectors["point_coords_xy"][0] / size, vectors["point_labels"][0]
    if "scribbles" in case:
        strokes, signs = stroke_points(vectors["scribbles"][0])
        if (
            case == "scribbles"
        ):  # whole numbers without clicks, which the published code keeps whole when it scales them
            strokes = (128 * strokes).floor() / 128
        points, labels = torch.cat([points, strokes]), torch.cat([labels, signs])
    if "box" in case:
        box = vectors["box_x1y1x2y2"].reshape(2, 2) / size
    return points, labels, box


@pytest.mark.parametrize("case", ["clicks", "scribbles", "box", "box_clicks", "scribbles_clicks", "clicks_again"])
def test_the_published_logits_are_reproduced(published, vectors, case):
    with torch.no_grad():
        features = published.encode_image(vectors["image"])
        before = vectors["clicks::low_res_logits"] if case == "clicks_again" else None
        logits = published.decode(features, *given(vectors, case), before)
        enlarged = published.enlarge(logits, (96, 80))
    torch.testing.assert_close(features, vectors["image_embedding"], atol=1e-4, rtol=0)
    torch.testing.assert_close(logits, vectors[f"{case}::low_res_logits"], atol=1e-4, rtol=0)
    torch.testing.assert_close(enlarged, vectors[f"{case}::logits"], atol=1e-4, rtol=0)


def test_prompts_as_channels_give_the_same(published, vectors):
    x = torch.zeros(2, 5, 96, 80)
    x[:, 0] = vectors["image"][:, 0]
    x[0, 2, 30, 40] = x[0, 3, 80, 10] = x[1, 2, 30, 40] = x[1, 3, 80, 10] = 1
    x[1, 1, 20:70, 12:60] = 1
    with torch.no_grad():
        for found, case in zip(published(x), ("clicks", "box_clicks"), strict=True):
            torch.testing.assert_close(found, vectors[f"{case}::logits"][0], atol=1e-4, rtol=0)


def test_the_published_file_is_recognised(shared_dir):
    shapes = json.loads((shared_dir / "golden" / "published_state_dict_shapes.json").read_text())
    shapes = shapes["scribbleprompt_sam_v1_vit_b"]
    description = recognise({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, Path("a.pt"))
    assert (description.architecture, description.size) == ("scribbleprompt_sam", 256)
    with torch.device("meta"):
        network = build_network(description.architecture, description.options)
        assert network.config == build_network("scribbleprompt_sam").config
    assert {name: list(value.shape) for name, value in network.state_dict().items()} == shapes


IMAGE = np.random.default_rng(0).random((SIDE, SIDE), dtype=np.float32)


@pytest.fixture
def predictor(tmp_path, monkeypatch):
    torch.manual_seed(0)
    options = {**TINY, "decoder_heads": 8}  # which no file tells
    torch.save(build_network("scribbleprompt_sam", options).state_dict(), tmp_path / "sam.pt")
    loaded = load_predictor(tmp_path / "sam.pt", device="cpu")
    counts = loaded.encodings = []
    encode = loaded._network._prepared.encode_image
    loaded._network._prepared.encode_image = lambda image: counts.append(1) or encode(image)
    loaded.set_image(IMAGE, intensity_range=IntensityRange(0.0, 1.0))
    return loaded


def test_an_image_is_encoded_once_and_logits_come_out_and_go_back_as_they_are(predictor):
    network, click = predictor.network, Prompts.empty((SIDE, SIDE)).with_click((7, 9))
    first = predictor.predict(click)
    again = predictor.predict(click.with_mask_input(first.logits).with_click((20, 3), positive=False))
    assert len(predictor.encodings) == 1
    image = torch.from_numpy(IMAGE)[None, None]
    points, labels = torch.tensor([[9.0, 7.0], [3.0, 20.0]]) / SIDE, torch.tensor([1, 0])
    with torch.no_grad():
        features = predictor._network._prepared.encode_image(image)  # in bfloat16 where that is fast
        alone = network.decode(features, points[:1], labels[:1])
        corrected = network.decode(features, points, labels, logits=alone)
    np.testing.assert_allclose(first.logits, alone[0, 0], atol=1e-5)
    np.testing.assert_allclose(again.logits, corrected[0, 0], atol=1e-5)


def test_every_prompt_counts_and_boxes_as_the_one_around_them(predictor):
    nothing, stroke = Prompts.empty((SIDE, SIDE)), np.zeros((SIDE, SIDE), bool)
    stroke[5, 4:20] = True
    two = nothing.with_box((2, 3), (9, 9)).with_box((4, 8), (20, 12))
    prompts = [nothing.with_box((2, 3), (20, 12)), nothing.with_scribble(stroke), nothing.with_click((5, 4))]
    prompts.append(prompts[1].with_scribble(np.roll(stroke, 9, axis=0), positive=False))
    logits = [predictor.predict(one).logits for one in prompts]
    assert all(np.abs(a - b).max() > 1e-5 for n, a in enumerate(logits) for b in logits[:n])
    np.testing.assert_array_equal(predictor.predict(two).logits, logits[0])


def test_strokes_on_large_images_give_as_many_points_as_in_training():
    marks = torch.zeros(2, 2 * TRAINED_SIDE, 2 * TRAINED_SIDE)
    marks[0, 100:104, 20:60] = marks[1, 8, 8] = 1
    points, labels = stroke_points(marks)
    assert labels.tolist() == [1] * 40 + [0]
    assert (TRAINED_SIDE * points)[[0, -1]].tolist() == [[10, 50], [4, 4]]


@pytest.mark.parametrize("options", [{"depth": 0}, {"image_size": 100}, {"heads": 7}, {"decoder_heads": 5}])
def test_sizes_that_do_not_fit_are_refused(options):
    with pytest.raises(ConfigError, match=r"must be positive|must divide"):
        build_network("scribbleprompt_sam", {**TINY, **options})
