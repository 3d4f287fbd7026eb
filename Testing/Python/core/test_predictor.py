"""Tests of the predictor: prompts on the image's own pixels in, logits on the same pixels out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scribblesegment import IntensityRange, Prompts, load_predictor
from scribblesegment.devices import ExecutionPlan
from scribblesegment.exceptions import GeometryError, ImageError, PromptError, WeightsError
from scribblesegment.models.scribble_unet import ScribbleUNet, ScribbleUNetConfig
from scribblesegment.predictor import Predictor

PLAIN = ExecutionPlan()


class ChannelSum(nn.Module):
    """A network one can reason about: logits are a weighted sum of the channels."""

    def __init__(self, image: float = 0.0, positive: float = 0.0, negative: float = 0.0, previous: float = 0.0) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([image, 0.0, positive, negative, previous]))
        self.offset = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.weights[:, None, None]).sum(dim=1, keepdim=True) + self.offset


def predictor_of(network: nn.Module, size: int = 16, **options: object) -> Predictor:
    return Predictor(network, size=size, plan=PLAIN, **options)  # type: ignore[arg-type]


def a_stroke(shape: tuple[int, int], row: int = 2) -> Prompts:
    mask = np.zeros(shape, dtype=bool)
    mask[row, 1:-1] = True
    return Prompts.empty(shape).with_scribble(mask)


@settings(max_examples=25)
@given(
    height=st.integers(3, 70),
    width=st.integers(3, 70),
    spacing=st.tuples(st.floats(0.3, 5.0), st.floats(0.3, 5.0)),
)
def test_logits_have_the_slice_shape_whatever_its_size_and_spacing(
    height: int, width: int, spacing: tuple[float, float]
) -> None:
    predictor = predictor_of(ChannelSum(image=1.0, positive=2.0))
    image = np.random.default_rng(0).normal(size=(height, width))
    predictor.set_image(image, spacing_mm=spacing)
    prediction = predictor.predict(a_stroke((height, width)))
    assert prediction.logits.shape == (height, width)
    assert prediction.logits.dtype == np.float32
    assert np.isfinite(prediction.logits).all()
    assert prediction.grid_logits.shape == (16, 16)


def test_a_stroke_marks_the_pixels_it_covers() -> None:
    predictor = predictor_of(ChannelSum(positive=2.0))
    predictor.set_image(np.zeros((16, 16)))
    mask = predictor.predict(a_stroke((16, 16), row=5)).mask()
    assert set(np.argwhere(mask)[:, 0]) == {5}
    assert mask.sum() == 14


def test_clicks_boxes_and_negative_strokes_reach_their_channels() -> None:
    predictor = predictor_of(ChannelSum(positive=2.0, negative=-3.0))
    predictor.set_image(np.zeros((16, 16)))
    prompts = a_stroke((16, 16), row=5).with_click((9, 9), positive=True).with_click((5, 5), positive=False)
    mask = predictor.predict(prompts.with_box((0, 0), (3, 3))).mask()
    assert mask[9, 9]
    assert not mask[5, 5]
    assert mask[5, 6]
    assert not mask[:3, :3].any()


def test_previous_logits_are_an_input() -> None:
    predictor = predictor_of(ChannelSum(previous=1.0))
    predictor.set_image(np.zeros((16, 16)))
    before = np.linspace(-4, 4, 256, dtype=np.float32).reshape(16, 16)
    logits = predictor.predict(a_stroke((16, 16)).with_mask_input(before)).logits
    np.testing.assert_allclose(logits, before - 1.0, atol=1e-5)


def test_the_range_of_the_volume_decides_the_intensities() -> None:
    predictor = predictor_of(ChannelSum(image=4.0))
    image = np.full((16, 16), 50.0)
    predictor.set_image(image, intensity_range=IntensityRange(0.0, 100.0))
    logits = predictor.predict(a_stroke((16, 16))).logits
    np.testing.assert_allclose(logits, 4.0 * 0.5 - 1.0, atol=1e-5)


def test_not_a_number_and_infinity_in_an_image_do_no_harm() -> None:
    predictor = predictor_of(ChannelSum(image=1.0))
    image = np.random.default_rng(1).normal(size=(20, 30))
    image[3, 4], image[5, 6], image[7, 8] = np.nan, np.inf, -np.inf
    predictor.set_image(image)
    assert np.isfinite(predictor.predict(a_stroke((20, 30))).logits).all()


def test_probabilities_and_masks_agree() -> None:
    predictor = predictor_of(ChannelSum(image=6.0))
    predictor.set_image(np.random.default_rng(2).random((16, 16)))
    prediction = predictor.predict(a_stroke((16, 16)))
    for threshold in (0.3, 0.5, 0.9):
        assert np.array_equal(prediction.mask(threshold), prediction.probabilities() > threshold)


def test_the_changed_box_encloses_what_differs_from_the_last_prediction() -> None:
    predictor = predictor_of(ChannelSum(positive=2.0))
    predictor.set_image(np.zeros((16, 16)))
    first = predictor.predict(a_stroke((16, 16), row=5))
    assert first.changed_bbox == ((5, 6), (1, 15))
    again = predictor.predict(a_stroke((16, 16), row=5))
    assert again.changed_bbox is None
    more = predictor.predict(a_stroke((16, 16), row=5).with_click((12, 3), positive=True))
    assert more.changed_bbox == ((12, 13), (3, 4))


def test_a_new_image_starts_from_an_empty_mask() -> None:
    predictor = predictor_of(ChannelSum(positive=2.0))
    for _ in range(2):
        predictor.set_image(np.zeros((16, 16)))
        assert predictor.predict(a_stroke((16, 16), row=5)).changed_bbox == ((5, 6), (1, 15))


def test_a_region_is_segmented_at_finer_pixels_and_the_rest_stays() -> None:
    predictor = predictor_of(ChannelSum(positive=2.0))
    predictor.set_image(np.zeros((64, 64)))
    prompts = Prompts.empty((64, 64)).with_click((20, 20), positive=True)
    whole = predictor.predict(prompts).mask()
    assert whole.sum() > 1  # one grid cell is four pixels wide
    inside = predictor.predict(prompts, region=((16, 32), (16, 32)))
    assert np.argwhere(inside.mask()).tolist() == [[20, 20]]
    assert (inside.logits[:16] < 0).all()
    earlier = np.full((64, 64), 3.0, dtype=np.float32)
    kept = predictor.predict(prompts.with_mask_input(earlier), region=((16, 32), (16, 32))).logits
    assert (kept[:16] == 3.0).all()


def test_boxes_are_cut_to_the_region() -> None:
    network = ChannelSum(positive=2.0)
    with torch.no_grad():
        network.weights[1] = 2.0
    predictor = predictor_of(network)
    predictor.set_image(np.zeros((32, 32)))
    prompts = Prompts.empty((32, 32)).with_box((0, 0), (20, 20)).with_box((28, 28), (32, 32))
    mask = predictor.predict(prompts, region=((16, 32), (0, 16))).mask()
    assert mask[16:20, :16].all()
    assert mask.sum() == 4 * 16


@pytest.mark.parametrize(
    "region", [((0, 0), (0, 5)), ((5, 3), (0, 5)), ((-1, 4), (0, 5)), ((0, 17), (0, 5)), ((0, 4), (0, 99))]
)
def test_a_region_outside_the_image_is_refused(region: tuple[tuple[int, int], tuple[int, int]]) -> None:
    predictor = predictor_of(ChannelSum())
    predictor.set_image(np.zeros((16, 16)))
    with pytest.raises(GeometryError, match="region"):
        predictor.predict(a_stroke((16, 16)), region=region)


def test_predicting_before_an_image_is_refused() -> None:
    with pytest.raises(PromptError, match="set_image"):
        predictor_of(ChannelSum()).predict(a_stroke((16, 16)))


def test_prompts_of_another_shape_are_refused_with_both_shapes() -> None:
    predictor = predictor_of(ChannelSum())
    predictor.set_image(np.zeros((16, 16)))
    with pytest.raises(PromptError, match=r"\(8, 16\).*\(16, 16\)"):
        predictor.predict(a_stroke((8, 16)))


def test_empty_prompts_are_refused() -> None:
    predictor = predictor_of(ChannelSum())
    predictor.set_image(np.zeros((16, 16)))
    with pytest.raises(PromptError, match="no prompts"):
        predictor.predict(Prompts.empty((16, 16)))


def test_only_negative_prompts_are_refused_unless_they_correct_a_prediction() -> None:
    predictor = predictor_of(ChannelSum())
    predictor.set_image(np.zeros((16, 16)))
    prompts = Prompts.empty((16, 16)).with_click((3, 3), positive=False)
    with pytest.raises(PromptError, match="All prompts are negative"):
        predictor.predict(prompts)
    assert predictor.predict(prompts.with_mask_input(np.ones((16, 16)))).logits.shape == (16, 16)


def test_a_prompt_the_network_does_not_understand_is_refused() -> None:
    predictor = predictor_of(ChannelSum(), capabilities=("scribbles",), name="strokes-only")
    predictor.set_image(np.zeros((16, 16)))
    assert predictor.capabilities == {"scribbles"}
    with pytest.raises(PromptError, match="strokes-only does not understand clicks"):
        predictor.predict(a_stroke((16, 16)).with_click((1, 1), positive=True))


@pytest.mark.parametrize("image", [np.zeros((2, 3, 4)), np.zeros((0, 4)), np.array([["a"]])])
def test_an_image_that_is_none_is_refused(image: np.ndarray) -> None:
    with pytest.raises(ImageError):
        predictor_of(ChannelSum()).set_image(image)


def test_gradients_flow_through_the_tensor_door() -> None:
    predictor = predictor_of(ChannelSum(image=1.0, positive=2.0))
    images = torch.rand(2, 1, 8, 8, requires_grad=True)
    logits = predictor.predict_torch(images, scribbles=torch.ones(2, 2, 8, 8))
    assert logits.shape == (2, 1, 8, 8)
    logits.sum().backward()
    assert images.grad is not None
    assert torch.equal(images.grad, torch.ones_like(images))
    assert all(parameter.grad is not None for parameter in predictor.network.parameters())


def test_both_doors_give_the_same_logits() -> None:
    torch.manual_seed(3)
    predictor = predictor_of(ScribbleUNet(ScribbleUNetConfig(features=(4, 6, 8))))
    image = np.random.default_rng(3).random((16, 16)).astype(np.float32)
    predictor.set_image(image, intensity_range=IntensityRange(0.0, 1.0))
    prompts = a_stroke((16, 16)).with_click((9, 4), positive=False).with_box((1, 1), (12, 13))
    with torch.no_grad():
        expected = predictor.predict_torch(
            torch.from_numpy(image)[None, None],
            scribbles=torch.from_numpy(np.array(prompts.scribbles))[None],
            point_coords=[torch.from_numpy(np.array(prompts.point_coords))],
            point_labels=[torch.from_numpy(np.array(prompts.point_labels))],
            boxes=[torch.from_numpy(np.array(prompts.boxes))],
        )[0, 0]
    np.testing.assert_allclose(predictor.predict(prompts).grid_logits, expected.numpy(), atol=1e-5)


def test_the_embedded_model_segments_a_disc_from_one_stroke() -> None:
    rows, columns = np.mgrid[:96, :128]
    disc = (rows - 50) ** 2 + (columns - 60) ** 2 < 25**2
    image = 80.0 * disc + np.random.default_rng(4).normal(0, 8, disc.shape)
    stroke = np.zeros(disc.shape, dtype=bool)
    stroke[48:51, 45:76] = True
    predictor = load_predictor(device="cpu")
    predictor.set_image(image)
    mask = predictor.predict(Prompts.empty(disc.shape).with_scribble(stroke)).mask()
    assert 2 * (mask & disc).sum() / (mask.sum() + disc.sum()) > 0.85


def test_unknown_weights_are_refused_with_the_known_names() -> None:
    with pytest.raises(WeightsError, match="scribble-unet-embedded"):
        load_predictor("no-such-model")
