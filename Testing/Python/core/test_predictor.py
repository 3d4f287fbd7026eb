"""Tests of the predictor: prompts on the image's own pixels in, logits on the same pixels out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from scribblesegment import IntensityRange, Prompts, load_predictor
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.preprocessing import NetworkGrid
from scribblesegment.errors import ConfigError, GeometryError, ImageError, PromptError, WeightsError
from scribblesegment.inference import predictor
from scribblesegment.inference.devices import ExecutionPlan
from scribblesegment.inference.predictor import Prediction, Predictor
from scribblesegment.models.encoding import PREVIOUS_LOGITS
from scribblesegment.models.unet import ScribbleUNet, ScribbleUNetConfig
from scribblesegment.weights.checkpoints import NetworkDescription, save_network

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


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Inputs of the network, one for each time it ran."""
    inputs: list[Tensor] = []
    run = predictor.run

    def spy(prepared: nn.Module, network_input: Tensor, plan: ExecutionPlan) -> Tensor:
        inputs.append(network_input.clone())
        return run(prepared, network_input, plan)

    monkeypatch.setattr(predictor, "run", spy)
    return inputs


def a_line(shape: tuple[int, int], row: int, start: int, stop: int) -> np.ndarray:
    """One pixel wide."""
    line = np.zeros(shape, dtype=bool)
    line[row, start:stop] = True
    return line


def predict_line(line: np.ndarray, focus_size: int, **options: object) -> Prediction:
    """A bright line and a stroke along it, for a network that takes the brighter three fifths for the structure."""
    finder = predictor_of(ChannelSum(image=1.0 / 0.4), focus_size=focus_size, **options)
    finder.set_image(line.astype(float), intensity_range=IntensityRange(0.0, 1.0))
    return finder.predict(Prompts.empty(line.shape).with_scribble(line))


def test_a_second_look_shows_what_the_grid_of_the_first_cannot_resolve() -> None:
    line = a_line((64, 64), 29, 5, 60)
    first = predict_line(line, focus_size=0)
    assert not first.mask().any()
    assert first.focus is None
    second = predict_line(line, focus_size=64)
    # With six cells of the first look on either side that is the whole slice, pixel for cell.
    assert second.focus == ((0, 64), (0, 64))
    np.testing.assert_array_equal(second.mask(), line)
    coarser = predict_line(line, focus_size=32)
    assert coarser.focus == second.focus
    assert not np.array_equal(coarser.mask(), line)


def test_outside_of_the_second_look_the_first_one_s_logits_stay_to_the_bit() -> None:
    line = a_line((64, 64), 29, 25, 33)
    first, second = predict_line(line, focus_size=0), predict_line(line, focus_size=64)
    assert second.focus == ((2, 58), (1, 57))
    (top, bottom), (left, right) = second.focus
    inside = np.zeros((64, 64), dtype=bool)
    inside[top:bottom, left:right] = True
    np.testing.assert_array_equal(second.logits[~inside], first.logits[~inside])
    np.testing.assert_array_equal(second.grid_logits, first.grid_logits)
    assert (second.logits[inside] != first.logits[inside]).any()
    assert first.changed_bbox is None
    assert second.changed_bbox is not None  # of what the second look found


def test_without_a_focus_size_the_network_runs_once(looks: list[Tensor]) -> None:
    predict_line(a_line((64, 64), 29, 5, 60), focus_size=0)
    assert [tuple(look.shape) for look in looks] == [(1, 5, 16, 16)]


def test_a_slice_that_the_grid_resolves_is_looked_at_once(looks: list[Tensor]) -> None:
    assert predict_line(a_line((16, 16), 7, 2, 14), focus_size=64).focus is None
    assert len(looks) == 1


def test_a_region_that_is_asked_for_is_looked_at_once(looks: list[Tensor]) -> None:
    finder = predictor_of(ChannelSum(image=1.0), focus_size=64)
    finder.set_image(np.zeros((64, 64)))
    prompts = Prompts.empty((64, 64)).with_click((30, 30))
    for region in (((16, 48), (16, 48)), ((0, 64), (0, 64))):
        looks.clear()
        assert finder.predict(prompts, region=region).focus is None
        assert len(looks) == 1
    looks.clear()
    assert finder.predict(prompts).focus is not None
    assert len(looks) == 2


def test_the_second_look_is_shown_the_first_logits(looks: list[Tensor]) -> None:
    finder = predictor_of(ChannelSum(image=2.0, previous=0.5))
    image = np.random.default_rng(8).random((64, 64))
    finder.set_image(image)
    earlier = np.random.default_rng(9).normal(size=(64, 64)).astype(np.float32)
    prompts = Prompts.empty((64, 64)).with_click((30, 30)).with_mask_input(earlier)
    first = finder.predict(prompts)
    finder.focus_size = 64
    looks.clear()
    focus = finder.predict(prompts).focus
    assert focus is not None
    view = NetworkGrid(focus, (1.0, 1.0), looks[1].shape[-1])
    assert view.size in (32, 64)
    np.testing.assert_array_equal(
        looks[1][0, PREVIOUS_LOGITS].numpy(), view.prompts_to_grid(prompts.with_mask_input(first.logits)).mask_input
    )
    given = NetworkGrid(((0, 64), (0, 64)), (1.0, 1.0), 16).prompts_to_grid(prompts).mask_input
    np.testing.assert_array_equal(looks[0][0, PREVIOUS_LOGITS].numpy(), given)


def test_predicting_changes_nothing_in_the_caller_s_prompts() -> None:
    finder = predictor_of(ChannelSum(image=2.0, previous=0.5), focus_size=64)
    finder.set_image(np.random.default_rng(8).random((64, 64)))
    prompts = a_stroke((64, 64)).with_click((30, 30)).with_mask_input(np.ones((64, 64)))
    before = Prompts(
        *(np.array(array) for array in (prompts.scribbles, prompts.point_coords, prompts.point_labels, prompts.boxes)),
        mask_input=np.array(prompts.mask_input),
    )
    first = finder.predict(prompts)
    kept = first.logits.copy()
    fed_back = prompts.with_mask_input(first.logits)
    finder.predict(fed_back)
    finder.predict(fed_back, region=((0, 32), (0, 32)))
    assert prompts.equals(before)
    np.testing.assert_array_equal(first.logits, kept)


@settings(max_examples=10)
@given(
    height=st.integers(3, 70),
    width=st.integers(3, 70),
    spacing=st.tuples(st.floats(0.3, 5.0), st.floats(0.3, 5.0)),
    seed=st.integers(0, 99),
)
def test_a_second_look_takes_slices_of_any_size_and_spacing(
    height: int, width: int, spacing: tuple[float, float], seed: int
) -> None:
    finder = predictor_of(ChannelSum(image=2.0, positive=2.0), focus_size=48)
    rng = np.random.default_rng(seed)
    finder.set_image(rng.normal(size=(height, width)), spacing_mm=spacing)
    prediction = finder.predict(Prompts.empty((height, width)).with_click((rng.integers(height), rng.integers(width))))
    assert prediction.logits.shape == (height, width)
    assert np.isfinite(prediction.logits).all()
    if prediction.focus is not None:
        (top, bottom), (left, right) = prediction.focus
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width


@pytest.mark.parametrize("focus_size", [8, 15, -1])
def test_a_focus_size_below_the_grid_s_is_refused(focus_size: int) -> None:
    with pytest.raises(ConfigError, match=f"at least the size of the grid, 16; got {focus_size}"):
        predictor_of(ChannelSum(), focus_size=focus_size)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_is_no_positive_number_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigError, match=f"temperature is a positive finite number, got {temperature}"):
        predictor_of(ChannelSum(), temperature=temperature)


def test_predictions_are_divided_by_the_temperature_and_the_mask_at_one_half_stays() -> None:
    image = np.random.default_rng(2).random((16, 16))

    def predicted(temperature: float) -> Prediction:
        warm = predictor_of(ChannelSum(image=6.0), temperature=temperature)
        warm.set_image(image)
        return warm.predict(a_stroke((16, 16)))

    plain, tempered = predicted(1.0), predicted(2.5)
    np.testing.assert_allclose(tempered.logits, plain.logits / 2.5, rtol=1e-5)
    np.testing.assert_array_equal(tempered.mask(), plain.mask())
    assert tempered.mask(0.7).sum() < plain.mask(0.7).sum()
    for threshold in (0.3, 0.7, 0.9):
        np.testing.assert_array_equal(tempered.mask(threshold), tempered.probabilities() > threshold)


def test_the_network_gets_its_own_logits_back_whatever_the_temperature() -> None:
    image = np.random.default_rng(2).random((16, 16))
    again = []
    for temperature in (1.0, 2.5):
        predictor = predictor_of(ChannelSum(image=6.0, previous=0.5), temperature=temperature)
        predictor.set_image(image)
        prompts = a_stroke((16, 16))
        first = predictor.predict(prompts)
        again.append(temperature * predictor.predict(prompts.with_mask_input(first.logits)).logits)
    np.testing.assert_allclose(again[1], again[0], rtol=1e-4, atol=1e-5)


def test_focus_size_and_temperature_come_from_the_file(tmp_path: Path) -> None:
    options = {"features": [3, 4]}
    network = ScribbleUNet(ScribbleUNetConfig(features=(3, 4)))
    path = tmp_path / "tiny.safetensors"
    save_network(
        path,
        network.state_dict(),
        NetworkDescription("scribble_unet", options, size=16, focus_size=48, temperature=1.75),
    )
    loaded = load_predictor(path, device="cpu")
    assert (loaded.size, loaded.focus_size, loaded.temperature) == (16, 48, 1.75)
    loaded.set_image(np.random.default_rng(0).random((64, 64)))
    prediction = loaded.predict(Prompts.empty((64, 64)).with_click((30, 30)))
    assert prediction.focus is not None
    save_network(path, network.state_dict(), NetworkDescription("scribble_unet", options, size=16))
    plain = load_predictor(path, device="cpu")
    assert (plain.focus_size, plain.temperature) == (0, 1.0)


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


def a_context(*masks: np.ndarray, shape: tuple[int, int] = (40, 60)) -> ContextSet:
    rng = np.random.default_rng(1)
    entries = tuple(
        ContextEntry(rng.random(shape, dtype=np.float32), mask, spacing_mm=(1.0, 1.0), source=f"image {number}")
        for number, mask in enumerate(masks)
    )
    return ContextSet("liver", entries)


def left_half(shape: tuple[int, int] = (40, 60)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[:, : shape[1] // 2] = True
    return mask


class ContextMean(nn.Module):
    """Logits are how often a pixel belongs to the structure in the context, in maps or as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(10.0))

    def encode_context(self, images: Tensor, masks: Tensor) -> tuple[Tensor, ...]:
        return (masks.mean(dim=1),)

    def forward(self, x: Tensor, context: tuple[Tensor, ...] | Tensor | None = None) -> Tensor:
        if context is None:
            return torch.full_like(x[:, :1], -1.0)
        return self.gain * ((context if isinstance(context, Tensor) else context[0]) - 0.5) + x[:, 2:3]


class ContextMeanMaps(ContextMean):
    def __init__(self) -> None:
        super().__init__()
        self.matched = 0

    def context_maps(self, image: Tensor, context: tuple[Tensor, ...]) -> Tensor:
        self.matched += 1
        return context[0].expand(len(image), -1, -1, -1)


def in_context(network: nn.Module, **options: object) -> Predictor:
    return predictor_of(network, capabilities=("scribbles", "context"), **options)


@pytest.mark.parametrize("network", [ContextMean(), ContextMeanMaps()])
def test_with_a_context_no_prompts_are_needed(network: nn.Module) -> None:
    predictor = in_context(network, size=32)
    predictor.set_image(np.zeros((40, 60)))
    with pytest.raises(PromptError, match="no prompts"):
        predictor.predict(Prompts.empty((40, 60)))
    predictor.set_context(a_context(left_half(), left_half()))
    mask = predictor.predict(Prompts.empty((40, 60))).mask()
    assert (mask == left_half()).mean() > 0.97
    predictor.set_context(None)
    with pytest.raises(PromptError, match="no prompts"):
        predictor.predict(Prompts.empty((40, 60)))


def test_a_context_outlives_the_image_and_an_empty_one_is_none() -> None:
    predictor = in_context(ContextMeanMaps(), size=32)
    predictor.set_context(a_context(left_half()))
    for _ in range(2):
        predictor.set_image(np.zeros((40, 60)))
        assert predictor.predict(Prompts.empty((40, 60))).mask().any()
    predictor.set_context(ContextSet("liver"))
    with pytest.raises(PromptError, match="no prompts"):
        predictor.predict(Prompts.empty((40, 60)))


def test_a_context_is_matched_once_an_image() -> None:
    predictor = in_context(ContextMeanMaps(), size=32)
    network = predictor._prepared
    predictor.set_context(a_context(left_half()))
    predictor.set_image(np.zeros((40, 60)))
    for row in (3, 9, 20):
        predictor.predict(a_stroke((40, 60), row=row))
    assert network.matched == 1


@settings(max_examples=20)
@given(top=st.integers(0, 20), left=st.integers(0, 30), height=st.integers(8, 20), width=st.integers(8, 30))
def test_a_region_shows_the_part_of_the_context_that_lies_there(top: int, left: int, height: int, width: int) -> None:
    predictor = in_context(ContextMeanMaps(), size=32)
    predictor.set_context(a_context(left_half()))
    predictor.set_image(np.zeros((40, 60)))
    region = ((top, top + height), (left, left + width))
    mask = predictor.predict(Prompts.empty((40, 60)), region=region).mask()
    inside = (slice(top, top + height), slice(left, left + width))
    agreement = mask[inside] == left_half()[inside]
    assert agreement[:, np.abs(np.arange(left, left + width) + 0.5 - 30) > 2].all()
    outside = np.ones((40, 60), bool)
    outside[inside] = False
    assert not mask[outside].any()


def test_a_second_look_shows_the_context_at_finer_pixels() -> None:
    disc = np.hypot(*(np.mgrid[:200, :200] - 60.0)) < 12
    predictor = in_context(ContextMeanMaps(), size=32, focus_size=64)
    predictor.set_context(a_context(disc, shape=(200, 200)))
    predictor.set_image(np.zeros((200, 200)))
    prediction = predictor.predict(Prompts.empty((200, 200)))
    assert prediction.focus is not None
    assert 2 * (prediction.mask() & disc).sum() / (prediction.mask().sum() + disc.sum()) > 0.85


def test_a_network_without_contexts_says_so() -> None:
    predictor = predictor_of(ChannelSum(), name="plain")
    with pytest.raises(ConfigError, match="plain takes no context set, only boxes, clicks, scribbles"):
        predictor.set_context(a_context(left_half()))
    predictor.set_context(None)
