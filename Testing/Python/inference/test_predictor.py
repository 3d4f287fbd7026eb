"""The predictor: prompts and contexts in, logits on the image's own pixels out; small networks one can reason about."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from scribblesegment import IntensityRange, InteractiveSession, Prompts, load_predictor
from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.masks import bounding_box
from scribblesegment.errors import CancelledError, ConfigError, GeometryError, ImageError, PromptError, WeightsError
from scribblesegment.inference import predictor as module
from scribblesegment.inference.devices import ExecutionPlan
from scribblesegment.inference.predictor import Network, Predictor
from scribblesegment.models.factory import build_network
from scribblesegment.models.unet import ScribbleUNet, ScribbleUNetConfig
from scribblesegment.weights.checkpoints import NetworkDescription, save_network

PLAIN = ExecutionPlan()
SMALL = (16, 16)


class ChannelSum(nn.Module):
    """Logits are a weighted sum of the channels, less one."""

    def __init__(self, image=0.0, box=0.0, positive=0.0, negative=0.0, previous=0.0, offset=-1.0):
        super().__init__()
        self.weights = nn.Parameter(torch.tensor([image, box, positive, negative, previous]))
        self.offset = nn.Parameter(torch.tensor(offset))

    def forward(self, x):
        return (x * self.weights[:, None, None]).sum(dim=1, keepdim=True) + self.offset


class ContextMean(nn.Module):
    """Logits are how often a pixel belongs to the structure in the context, through maps or as entries."""

    def __init__(self, maps=False):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(12.0))
        self.encoded, self.matched = [], []
        if maps:
            self.context_maps = self._context_maps

    def encode_context(self, images, masks):
        self.encoded.append(masks.shape[1])
        return (masks.mean(dim=1),)

    def _context_maps(self, image, context):
        self.matched.append(float(image.max()))
        return context[0].expand(len(image), -1, -1, -1)

    def forward(self, x, context=None):
        if context is None:
            return torch.full_like(x[:, :1], -1.0)
        return self.gain * (context if isinstance(context, torch.Tensor) else context[0]) - 4.0


def a_predictor(network, image=None, size=16, **options):
    predictor = Predictor(Network(network, size=size, plan=PLAIN, **options))
    if image is not None:
        predictor.set_image(image, intensity_range=IntensityRange(0.0, 1.0))
    return predictor


def a_stroke(shape=SMALL, row=2, positive=True):
    mask = np.zeros(shape, bool)
    mask[row, 1:-1] = True
    return Prompts.empty(shape).with_scribble(mask, positive)


def left_half(shape=(32, 32)):
    mask = np.zeros(shape, bool)
    mask[:, : shape[1] // 2] = True
    return mask


def a_context(*masks):
    rng = np.random.default_rng(1)
    entries = (
        ContextEntry(rng.random(mask.shape, dtype=np.float32), mask, (1.0, 1.0), source=f"image {number}")
        for number, mask in enumerate(masks or (left_half(),))
    )
    return ContextSet("liver", tuple(entries))


@pytest.fixture
def passes(monkeypatch):
    """Inputs of the networks, one for each time one ran."""
    inputs, run = [], module.run

    def spy(prepared, network_input, plan, *context):
        inputs.append(network_input.clone())
        return run(prepared, network_input, plan, *context)

    monkeypatch.setattr(module, "run", spy)
    return inputs


# From prompts -------------------------------------------------------------------------------------------------------


sides, mm = st.integers(3, 70), st.floats(0.3, 5.0)


@settings(max_examples=25)
@given(st.tuples(sides, sides), st.tuples(mm, mm), st.sampled_from([0, 48]), st.integers(0, 99))
def test_slices_of_any_size_and_spacing_get_logits_of_their_shape(shape, spacing, focus_size, seed):
    rng = np.random.default_rng(seed)
    predictor = a_predictor(ChannelSum(image=2.0, positive=2.0), focus_size=focus_size)
    image = rng.normal(size=shape)
    image[0, 0], image[1, 1], image[2, 2] = np.nan, np.inf, -np.inf
    predictor.set_image(image, spacing_mm=spacing)
    found = predictor.predict(Prompts.empty(shape).with_click(rng.integers(shape)))
    assert (found.logits.shape, found.logits.dtype, found.grid_logits.shape) == (shape, np.float32, (16, 16))
    assert np.isfinite(found.logits).all()
    for (start, stop), side in zip(found.focus or (), shape, strict=bool(found.focus)):
        assert 0 <= start < stop <= side


def test_every_kind_of_prompt_reaches_its_channel():
    before = np.linspace(-4, 4, 256, dtype=np.float32).reshape(SMALL)
    prompts = a_stroke(row=5).with_click((9, 9)).with_click((5, 5), positive=False).with_box((0, 0), (3, 3))
    weights = {"image": 7.0, "box": 2.0, "positive": 3.0, "negative": -5.0, "previous": 0.5}
    logits = a_predictor(ChannelSum(**weights), np.full(SMALL, 0.25)).predict(prompts.with_mask_input(before)).logits
    expected = 7.0 * 0.25 - 1.0 + 0.5 * before
    expected[:3, :3] += 2.0
    expected[5, 1:15] += 3.0
    expected[9, 9] += 3.0
    expected[5, 5] -= 8.0
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_probabilities_masks_and_temperature_agree_and_the_network_gets_its_own_logits_back():
    image, network, again = np.random.default_rng(2).random(SMALL), ChannelSum(6.0, offset=-3.0, previous=0.5), []
    for temperature in (1.0, 2.5):
        predictor = a_predictor(network, image, temperature=temperature)
        found = predictor.predict(a_stroke())
        for threshold in (0.3, 0.7, 0.9):
            np.testing.assert_array_equal(found.mask(threshold), found.probabilities() > threshold)
        corrected = predictor.predict(a_stroke().with_mask_input(found.logits))
        again.append((temperature * found.logits, temperature * corrected.logits, found.mask(), found.mask(0.7).sum()))
    for plain, tempered in list(zip(*again, strict=True))[:3]:
        np.testing.assert_allclose(tempered, plain, rtol=1e-4, atol=1e-5)
    assert again[1][3] < again[0][3]


def test_the_changed_box_encloses_what_differs_from_the_last_prediction_for_this_image():
    predictor = a_predictor(ChannelSum(positive=2.0), np.zeros(SMALL))
    assert predictor.predict(a_stroke(row=5)).changed_bbox == ((5, 6), (1, 15))
    assert predictor.predict(a_stroke(row=5)).changed_bbox is None
    assert predictor.predict(a_stroke(row=5).with_click((12, 3))).changed_bbox == ((12, 13), (3, 4))
    predictor.set_image(np.zeros(SMALL))
    assert predictor.predict(a_stroke(row=5)).changed_bbox == ((5, 6), (1, 15))


# A region, and the zoom pass ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("region", [None, ((2, 12), (4, 14))])
def test_a_correction_of_one_kind_changes_the_prediction_in_its_direction_alone(region):
    rng = np.random.default_rng(5)
    former = rng.normal(0, 1, SMALL).astype(np.float32)
    predictor = a_predictor(ChannelSum(positive=3.0, negative=-3.0, image=4.0, offset=-2.0), rng.random(SMALL))
    prompts = a_stroke().with_mask_input(former)
    free, added, taken = (predictor.predict(prompts, newest=newest, region=region) for newest in (None, True, False))
    assert np.array_equal(added.logits, np.maximum(free.logits, former))
    assert np.array_equal(taken.logits, np.minimum(free.logits, former))
    assert np.array_equal(predictor.predict(a_stroke(), newest=False).logits, predictor.predict(a_stroke()).logits)


def test_a_region_is_segmented_at_finer_pixels_and_the_rest_stays():
    predictor = a_predictor(ChannelSum(positive=2.0, box=2.0), np.zeros((64, 64)), focus_size=64)
    prompts = Prompts.empty((64, 64)).with_click((20, 20))
    region = ((16, 32), (16, 32))
    inside = predictor.predict(prompts, region=region)
    assert np.argwhere(inside.mask()).tolist() == [[20, 20]]
    assert inside.focus is None
    assert (inside.logits[:16] == -20).all()
    kept = predictor.predict(prompts.with_mask_input(np.full((64, 64), 3.0)), region=region).logits
    assert (kept[:16] == 3.0).all()
    boxed = predictor.predict(prompts.with_box((0, 0), (20, 24)).with_box((40, 40), (50, 50)), region=region).mask()
    assert boxed[16:20, 16:24].all()
    assert boxed.sum() == 4 * 8 + 1


def a_line(start=25, stop=33):
    line = np.zeros((64, 64), bool)
    line[29, start:stop] = True
    return line


def predict_line(line, focus_size):
    """For a network that takes the brighter three fifths for the structure."""
    network = ChannelSum(image=1.0 / 0.4)
    predictor = a_predictor(network, line.astype(float), focus_size=focus_size)
    return predictor.predict(Prompts.empty(line.shape).with_scribble(line))


def test_a_zoom_pass_shows_what_the_first_cannot_resolve_and_outside_of_it_logits_stay_to_the_bit():
    first, zoomed = predict_line(a_line(), 0), predict_line(a_line(), 64)
    assert first.focus is None
    assert zoomed.focus == ((2, 58), (1, 57))
    inside = np.zeros((64, 64), bool)
    inside[2:58, 1:57] = True
    np.testing.assert_array_equal(zoomed.logits[~inside], first.logits[~inside])
    np.testing.assert_array_equal(zoomed.grid_logits, first.grid_logits)
    assert (zoomed.logits[inside] != first.logits[inside]).any()
    assert (first.changed_bbox is None, zoomed.changed_bbox is None) == (True, False)
    long = a_line(5, 60)
    first, zoomed, coarser = (predict_line(long, size) for size in (0, 64, 32))
    assert not first.mask().any()
    assert zoomed.focus == coarser.focus == ((0, 64), (0, 64))  # six cells of the first pass to either side
    np.testing.assert_array_equal(zoomed.mask(), long)
    assert not np.array_equal(coarser.mask(), long)


def test_a_prediction_is_given_up_between_its_parts_and_made_when_asked_again():
    predictor = a_predictor(ChannelSum(image=2.0, positive=3.0), a_line().astype(float), focus_size=64)
    whole, asked = predictor.predict(a_stroke((64, 64), 30)).logits, []
    predictor.predict(a_stroke((64, 64), 30), cancelled=lambda: bool(asked.append(1)))
    assert len(asked) == 3  # the image is encoded already
    for most in range(3):
        times = iter(range(3))
        with pytest.raises(CancelledError):
            predictor.predict(a_stroke((64, 64), 30), cancelled=lambda times=times, most=most: next(times) >= most)
        np.testing.assert_array_equal(predictor.predict(a_stroke((64, 64), 30)).logits, whole)


# From a context -----------------------------------------------------------------------------------------------------

IN_CONTEXT = ("scribbles", "context")


@pytest.mark.parametrize("maps", [False, True])
def test_with_a_context_no_prompts_are_needed_and_it_outlives_the_image(maps):
    predictor = a_predictor(ContextMean(maps), size=32, capabilities=IN_CONTEXT)
    predictor.set_context(a_context(left_half((40, 60)), left_half((40, 60))))
    for _ in range(2):
        predictor.set_image(np.zeros((40, 60)))
        assert (predictor.predict(Prompts.empty((40, 60))).mask() == left_half((40, 60))).mean() > 0.97
    for none in (ContextSet("liver"), None):
        predictor.set_context(none)
        with pytest.raises(PromptError, match="no prompts"):
            predictor.predict(Prompts.empty((40, 60)))


def test_a_context_is_encoded_once_and_matched_once_an_image():
    network = Network(ContextMean(maps=True), size=32, plan=PLAIN, capabilities=IN_CONTEXT)
    predictor, prepared, context = Predictor(network), network._prepared, a_context()
    for value in (1.0, 2.0):
        predictor.set_context(ContextSet("liver", context.entries))
        predictor.set_image(np.full((32, 32), value), intensity_range=IntensityRange(0.0, 4.0))
        predictor.encode()
        assert prepared.matched[-1] == value / 4
        for row in (3, 9):
            predictor.predict(a_stroke((32, 32), row))
    assert (prepared.encoded, prepared.matched) == ([1], [0.25, 0.5])
    predictor.set_context(a_context(left_half(), ~left_half()))
    predictor.predict(a_stroke((32, 32)))
    assert (prepared.encoded, prepared.matched) == ([1, 2], [0.25, 0.5, 0.5])


@settings(max_examples=20)
@given(st.integers(0, 20), st.integers(0, 30), st.integers(8, 20), st.integers(8, 30))
def test_a_region_shows_the_part_of_the_context_that_lies_there(top, left, height, width):
    predictor = a_predictor(ContextMean(maps=True), np.zeros((40, 60)), size=32, capabilities=IN_CONTEXT)
    predictor.set_context(a_context(left_half((40, 60))))
    region = ((top, top + height), (left, left + width))
    mask = predictor.predict(Prompts.empty((40, 60)), region=region).mask()
    inside = (slice(*region[0]), slice(*region[1]))
    clear = np.abs(np.arange(*region[1]) + 0.5 - 30) > 2
    assert (mask[inside] == left_half((40, 60))[inside])[:, clear].all()
    mask[inside] = False
    assert not mask.any()


# Two networks -------------------------------------------------------------------------------------------------------

BLANK = Prompts.empty((32, 32))


def column(index, positive=True):
    marked = np.zeros((32, 32), bool)
    marked[4:28, index] = True
    return BLANK.with_scribble(marked, positive)


@pytest.fixture
def loaded():
    """The networks that the pair has loaded for contexts."""
    return []


@pytest.fixture
def pair(loaded):
    options = {"size": 32, "plan": PLAIN}

    def load():
        capabilities = ("clicks", *IN_CONTEXT)
        loaded.append(Network(ContextMean(maps=True), capabilities=capabilities, name="other", **options))
        return loaded[-1]

    own = ChannelSum(positive=12.0, offset=-8.0)
    return Predictor(Network(own, capabilities=("scribbles", "boxes"), name="own", **options), load)


def test_the_network_for_contexts_is_loaded_once_and_only_for_a_context(pair, loaded):
    assert pair.capabilities == {"scribbles", "boxes", "context"}
    assert (pair.name, pair.size, pair.focus_size, pair.temperature, pair.plan) == ("own", 32, 0, 1.0, PLAIN)
    pair.set_context(ContextSet("liver"))
    pair.set_image(np.zeros((32, 32)))
    assert loaded == []
    for changed in ((0, 21), None):  # what has changed is seen across both networks
        if changed:
            assert pair.predict(column(20)).changed_bbox == ((4, 28), (20, 21))
        pair.set_context(a_context())
        found = pair.predict(BLANK)
        np.testing.assert_array_equal(found.mask(), left_half())
        assert found.changed_bbox == (changed and ((0, 32), changed))
    assert len(loaded) == 1
    pair.set_image(np.zeros((40, 20)))  # with the context that was set before
    assert pair.predict(Prompts.empty((40, 20))).logits.shape == (40, 20)


OWN, IN_CONTEXT_ALONE, MEAN = "own", "in context", "mean"


@pytest.mark.parametrize(
    ("prompts", "context", "region", "who"),
    [
        (column(20), False, None, OWN),
        (BLANK, True, None, IN_CONTEXT_ALONE),
        (column(20), True, None, MEAN),
        (column(3, positive=False), True, None, IN_CONTEXT_ALONE),
        (column(3, positive=False).with_mask_input(np.full((32, 32), 2.0)), True, None, MEAN),
        (BLANK.with_mask_input(np.full((32, 32), 2.0)), True, None, IN_CONTEXT_ALONE),
        (column(20), True, ((0, 32), (0, 16)), IN_CONTEXT_ALONE),  # no prompts in that part
        (column(3), True, ((0, 32), (0, 16)), MEAN),
    ],
)
def test_who_predicts(pair, prompts, context, region, who):
    pair.set_image(np.zeros((32, 32)))
    pair.set_context(a_context() if context else None)
    logits = pair.predict(prompts, region=region).logits
    own = np.where(prompts.scribbles[0] > 0, 4.0, -8.0)
    other = np.where(left_half(), 8.0, -4.0)
    expected = {OWN: own, IN_CONTEXT_ALONE: other, MEAN: (own + other) / 2}[who]
    columns = slice(0, 32 if region is None else 14)  # maps are interpolated at the border of the structure
    np.testing.assert_allclose(logits[:, columns], expected[:, columns], atol=1e-5)
    if context and who == MEAN:
        with pytest.raises(PromptError, match="other does not understand boxes, only clicks, context, scribbles"):
            pair.predict(prompts.with_box((0, 0), (5, 5)))


def test_one_network_corrects_what_the_other_predicts_from_the_context():
    own = Network(ChannelSum(positive=12.0, previous=1.0, offset=0.0), size=32, plan=PLAIN)
    other = Network(ContextMean(), capabilities=IN_CONTEXT, size=32, plan=PLAIN)
    predictor = Predictor(own, other, context_first=True, least_context=2)
    predictor.set_image(np.zeros((32, 32)))
    from_context, stroke = np.where(left_half(), 8.0, -4.0), 12.0 * (column(20).scribbles[0] > 0)
    predictor.set_context(a_context())  # one entry, which counts as none
    np.testing.assert_allclose(predictor.predict(column(20)).logits, stroke)
    predictor.set_context(a_context(left_half(), left_half()))
    np.testing.assert_allclose(predictor.predict(BLANK).logits, from_context)
    np.testing.assert_allclose(predictor.predict(column(20)).logits, from_context + stroke)
    before = np.full((32, 32), 3.0)
    np.testing.assert_allclose(predictor.predict(column(20).with_mask_input(before)).logits, before + stroke)


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompts", "region", "error", "words"),
    [
        (Prompts.empty(SMALL), None, PromptError, "no prompts"),
        (a_stroke(positive=False), None, PromptError, "Only background is marked"),
        (a_stroke(row=2), ((8, 16), (0, 16)), PromptError, "no prompts"),
        (a_stroke((8, 16)), None, PromptError, r"\(8, 16\).*\(16, 16\)"),
        (a_stroke().with_click((1, 1)), None, PromptError, "strokes-only does not understand clicks"),
        *((a_stroke(), (rows, (0, 5)), GeometryError, "region") for rows in ((0, 0), (5, 3), (-1, 4), (0, 17))),
        (a_stroke(), ((0, 4), (0, 99)), GeometryError, "region"),
    ],
)
def test_what_cannot_be_predicted_is_refused(prompts, region, error, words):
    predictor = a_predictor(ChannelSum(), np.zeros(SMALL), capabilities=("scribbles",), name="strokes-only")
    with pytest.raises(error, match=words):
        predictor.predict(prompts, region=region)
    assert predictor.predict(a_stroke(positive=False).with_mask_input(np.ones(SMALL))).logits.shape == SMALL


def gone():
    raise WeightsError("gone")


def test_inputs_that_cannot_be_used_are_refused():
    predictor = a_predictor(ChannelSum(positive=3.0), name="plain")
    broken = a_predictor(ChannelSum(offset=float("nan")), np.zeros(SMALL))
    without_partner = Predictor(predictor._network, gone)
    without_partner.set_image(np.zeros(SMALL))
    with pytest.raises(PromptError, match="set_image"):
        predictor.predict(a_stroke())
    for act, error, message in (
        (lambda: predictor.set_context(a_context()), ConfigError, "plain takes no context set, only boxes"),
        (lambda: without_partner.set_context(a_context()), WeightsError, "gone"),
        (lambda: predictor.set_image(np.zeros((2, 3, 4))), ImageError, "dimensions"),
        (lambda: predictor.set_image(np.array([["a"]])), ImageError, "image"),
        (lambda: predictor.set_image(np.zeros(SMALL), spacing_mm=(0.0, 1.0)), GeometryError, "spacing"),
        (lambda: broken.predict(a_stroke()), ImageError, "NaN or infinite logits"),
        (lambda: a_predictor(ChannelSum(), focus_size=15), ConfigError, "at least the size of the grid, 16; got 15"),
        (lambda: a_predictor(ChannelSum(), temperature=0.0), ConfigError, "positive finite number, got 0.0"),
        (lambda: a_predictor(ChannelSum(), temperature=float("inf")), ConfigError, "positive finite number, got inf"),
        (lambda: load_predictor("no-such-model"), WeightsError, "scribble-unet-embedded"),
    ):
        with pytest.raises(error, match=message):
            act()
    assert without_partner.predict(a_stroke()).mask().any()


# Tensors, and files -------------------------------------------------------------------------------------------------


def test_the_tensor_door_has_gradients_and_the_same_logits():
    torch.manual_seed(3)
    image = np.random.default_rng(3).random(SMALL).astype(np.float32)
    predictor = a_predictor(ScribbleUNet(ScribbleUNetConfig(features=(4, 6, 8))), image)
    prompts = a_stroke().with_click((9, 4), positive=False).with_box((1, 1), (12, 13)).with_mask_input(image)
    images = torch.from_numpy(image)[None, None].requires_grad_()
    logits = predictor.predict_torch(
        images,
        scribbles=torch.from_numpy(np.array(prompts.scribbles))[None],
        point_coords=[torch.from_numpy(np.array(prompts.point_coords))],
        point_labels=[torch.from_numpy(np.array(prompts.point_labels))],
        boxes=[torch.from_numpy(np.array(prompts.boxes))],
        mask_input=torch.from_numpy(image)[None, None],
    )
    np.testing.assert_allclose(predictor.predict(prompts).grid_logits, logits.detach().numpy()[0, 0], atol=1e-5)
    logits.sum().backward()
    assert images.grad is not None
    assert all(parameter.grad is not None for parameter in predictor.network.parameters())


def test_a_file_says_how_its_network_is_used(tmp_path):
    network, options = ScribbleUNet(ScribbleUNetConfig(features=(3, 4))), {"features": [3, 4]}
    path = tmp_path / "tiny.safetensors"
    for extra, expected in (
        ({"focus_size": 48, "temperature": 1.75, "name": "t"}, (48, 1.75, "t")),
        ({}, (0, 1.0, "tiny")),
    ):
        save_network(path, network.state_dict(), NetworkDescription("scribble_unet", options, size=16, **extra))
        loaded = load_predictor(path, device="cpu")
        assert (loaded.size, loaded.focus_size, loaded.temperature, loaded.name) == (16, *expected)
        assert "context" not in loaded.capabilities


def test_the_default_segments_from_a_stroke_and_from_a_context():
    rows, columns = np.mgrid[:96, :128]
    disc = (rows - 50) ** 2 + (columns - 60) ** 2 < 25**2
    image = 80.0 * disc + np.random.default_rng(4).normal(0, 8, disc.shape)
    stroke = np.zeros(disc.shape, bool)
    stroke[48:51, 45:76] = True
    predictor = load_predictor(device="cpu")
    assert "context" in predictor.capabilities
    predictor.set_image(image)
    seen = IntensityRange.estimate(image).normalize(image)
    prompted = predictor.predict(Prompts.empty(disc.shape).with_scribble(stroke)).mask()
    predictor.set_context(ContextSet("disc", (ContextEntry(seen, disc, (1.0, 1.0)),)))
    for found in (prompted, predictor.predict(Prompts.empty(disc.shape)).mask()):
        assert 2 * (found & disc).sum() / (found.sum() + disc.sum()) > 0.85


@pytest.mark.parametrize(("in_context", "least"), [("universeg", 5), ("multiverseg", 1)])
def test_two_names_joined_by_a_plus_make_one_predictor(tmp_path, in_context, least):
    paths = {name: tmp_path / f"{name}.pt" for name in ("scribble_unet", in_context)}
    for name, path in paths.items():
        torch.save(build_network(name, {"features": [4, 4]}).state_dict(), path)
    predictor = load_predictor("+".join(map(str, paths.values())), device="cpu")
    assert (predictor.capabilities, predictor.least_context) == ({"scribbles", "clicks", "boxes", "context"}, least)
    predictor.set_image(np.zeros((40, 20)))
    predictor.set_context(a_context(*[left_half()] * 5))
    assert predictor.predict(Prompts.empty((40, 20))).logits.shape == (40, 20)
    with pytest.raises(ConfigError, match="takes no context set"):
        load_predictor(f"{paths['scribble_unet']}+{paths['scribble_unet']}", device="cpu")


# Threads and large slices -------------------------------------------------------------------------------------------


def test_threads_that_share_a_predictor_do_not_mix_their_images():
    predictor = a_predictor(ChannelSum(image=3.0, positive=6.0))
    images = [np.random.default_rng(number).normal(0, 1, (40 + number, 36)) for number in range(4)]

    def segmented(image):
        predictor.set_image(image)
        return predictor.predict(Prompts.empty(image.shape).with_click((20, 18))).logits

    alone = [segmented(image) for image in images]
    sessions = [InteractiveSession(predictor, image) for image in images]
    for session in sessions:
        session.add_click((20, 18))
    with ThreadPoolExecutor(len(images)) as pool:
        for _ in range(3):
            for expected, found in zip(alone, pool.map(segmented, images), strict=True):
                assert np.array_equal(found, expected)
            for expected, found in zip(alone, pool.map(lambda one: one.predict().logits, sessions), strict=True):
                assert np.array_equal(found, expected)
    predictor.set_image(images[0])
    with ThreadPoolExecutor(1) as other:  # a thread that has set no image works on the newest
        click = Prompts.empty(images[0].shape).with_click((20, 18))
        assert np.array_equal(other.submit(predictor.predict, click).result().logits, alone[0])


def test_a_large_slice_is_segmented_where_the_structure_may_be_and_looks_the_same_there(monkeypatch):
    predictor = a_predictor(ChannelSum(image=3.0, positive=6.0))
    image = np.random.default_rng(0).integers(0, 200, (90, 130), np.uint8)
    image[30:50, 40:70] += 50
    prompts = Prompts.empty(image.shape).with_click((40, 55))
    predictor.set_image(image)
    usual = predictor.predict(prompts)
    monkeypatch.setattr("scribblesegment.inference.predictor._LARGE_PIXELS", 1000)
    limit = float(np.median(usual.grid_logits))
    monkeypatch.setattr("scribblesegment.inference.predictor._SURELY_OUTSIDE_LOGIT", limit)
    predictor.set_image(image)
    found = predictor.predict(prompts)
    assert np.allclose(found.grid_logits, usual.grid_logits, atol=1e-5)
    inside = usual.logits > limit + 0.1
    assert np.allclose(found.logits[inside], usual.logits[inside], atol=1e-4)
    assert (found.logits[~inside] < limit + 0.2).all()


class Edges(nn.Module):
    """Logits are those of bright pixels within a few cells of a positive prompt."""

    def forward(self, x):
        near = torch.nn.functional.max_pool2d(x[:, 2:3], 15, 1, 7)
        return torch.where((near > 0) & (x[:, :1] > 0.6), 5.0, -5.0)


@pytest.mark.parametrize(("radius", "is_close"), [(3, True), (12, False)])
def test_a_small_prompt_on_a_coarse_grid_is_looked_at_closely_and_what_ends_there_is_the_structure(
    passes, radius, is_close
):
    y, x = np.mgrid[:256, :256]
    structure = np.hypot(y - 100, x - 150) <= radius
    predictor = a_predictor(Edges(), np.where(structure, 1.0, 0.2), size=32, focus_size=128)
    click = Prompts.empty(structure.shape).with_click((100, 150))
    found = predictor.predict(click)
    assert np.array_equal(found.mask(), structure) == is_close
    if is_close:
        assert [one.shape[-1] for one in passes] == [32, 128, 32]  # and what was found once more, at finer pixels
    assert (found.logits[:40] < 0.0).all()


def test_what_the_finest_look_finds_beside_the_close_one_is_part_of_the_change(passes):
    class Bright(nn.Module):
        def forward(self, x):
            return torch.where(x[:, :1] > 0.6, 5.0, -5.0)

    image = np.full((256, 256), 0.2)
    image[126:131, 126:172] = image[126:131, 178:182] = 1.0  # within the first close look, and beside it
    found = a_predictor(Bright(), image, size=32, focus_size=64).predict(
        Prompts.empty(image.shape).with_click((128, 128))
    )
    assert len(passes) == 3
    assert found.mask()[128, 180]
    assert found.changed_bbox == bounding_box(found.mask())
