from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest

from scribblesegment.errors import ConfigError, DatasetError
from scribblesegment.evaluation.calibration_protocol import (
    NEAR,
    PIXELS,
    WHOLE,
    Pixels,
    calibration_table,
    collect_pixels,
)
from scribblesegment.evaluation.stepwise import ClassicalMethod, StepPrediction
from scribblesegment.simulation.rounds import SimulatedUserConfig


@dataclass(frozen=True, eq=False)
class AnExample:
    image: np.ndarray
    reference: np.ndarray
    set_name: str = "squares"
    task: str = "squares/square"


class ANetwork:
    """Logits whose size is `sureness` times what their errors justify; remembers what it was given."""

    def __init__(self, reference, *, error, sureness=1.0):
        self.reference, self.error, self.sureness = reference, error, sureness
        self.given, self.images = [], 0
        self.rng = np.random.default_rng(3)

    def set_image(self, image):
        self.images += 1

    def segment(self, prompts):
        self.given.append(prompts)
        wrong = self.rng.random(self.reference.shape) < self.error
        logit = self.sureness * np.log((1 - self.error) / self.error) if self.error else 5.0
        logits = np.where(self.reference ^ wrong, logit, -logit).astype(np.float32)
        return StepPrediction(logits > 0, None, logits)


@pytest.fixture
def example():
    reference = np.zeros((128, 128), dtype=bool)
    reference[30:70, 40:90] = True
    return AnExample(np.full((128, 128), 0.5, np.float32), reference)


def test_every_step_is_predicted_with_more_prompts(example, rng):
    network = ANetwork(example.reference, error=0.1)
    pixels = collect_pixels(network, [example, example], rng, steps=3)
    assert network.images == 2
    assert len(network.given) == 6
    for first, *corrections in (network.given[:3], network.given[3:]):
        assert first.has_positive
        sizes = [np.count_nonzero(prompts.scribbles) + len(prompts.point_labels) for prompts in (first, *corrections)]
        assert sizes == sorted(set(sizes))
    for content in pixels.values():
        assert np.bincount(content.steps).tolist() == [0] + [2 * PIXELS] * 3
        assert len(content.logits) == len(content.references) == len(content.weights)
        assert content.weights.sum() == pytest.approx(6)


def test_pixels_around_the_structure_are_more_often_inside_than_those_of_the_image(example, rng):
    pixels = collect_pixels(ANetwork(example.reference, error=0.1), [example], rng)
    assert pixels[WHOLE].references.mean() == pytest.approx(example.reference.mean(), abs=0.02)
    # The box of 40 x 50 pixels is enlarged by 25 on each side, cut at the upper border.
    assert pixels[NEAR].references.mean() == pytest.approx(40 * 50 / (90 * 100), abs=0.03)


def test_the_temperature_is_how_much_too_sure_the_network_is(example, rng):
    # In half of the image: only where both are as frequent does the rate of errors alone tell the probability.
    reference = np.zeros((128, 128), dtype=bool)
    reference[:, :64] = True
    examples = [AnExample(example.image, reference)] * 2
    pixels = collect_pixels(ANetwork(reference, error=0.1, sureness=2.5), examples, rng, steps=2)
    temperature = pixels[NEAR].fit()
    assert temperature == pytest.approx(2.5, rel=0.05)
    assert pixels[NEAR].curve(1.0).error > 0.08
    assert pixels[NEAR].curve(temperature).error < 0.01


def test_rounds_end_when_there_is_nothing_to_correct(example, rng):
    network = ANetwork(example.reference, error=0.0)
    pixels = collect_pixels(network, [example], rng)
    assert len(network.given) == 1
    with pytest.raises(DatasetError, match="right sign"):
        pixels[NEAR].fit()


def test_a_step_and_a_set_can_be_looked_at_alone():
    pixels = Pixels(
        logits=np.array([-9.0, 9.0, -9.0, -9.0], np.float32),
        references=np.array([False, False, False, True]),
        weights=np.ones(4),
        steps=np.array([1, 2, 1, 1]),
        sets=np.array([0, 0, 1, 1]),
        set_names=("a", "b"),
    )
    assert pixels.of_set("a").of_step(1).curve(1.0).error == pytest.approx(0, abs=1e-3)
    assert pixels.of_step(2).curve(1.0).error == pytest.approx(1, abs=1e-3)
    assert pixels.of_set("b").curve(1.0).error == pytest.approx(0.5, abs=1e-3)
    assert pixels.of_set("b").cost(1.0) == pytest.approx(4.5, abs=1e-3)
    assert pixels.curve(1.0).error == pytest.approx(0.5, abs=1e-3)


def test_the_table_holds_the_errors_before_and_after(example, rng):
    other = dataclasses.replace(example, set_name="more squares")
    pixels = collect_pixels(ANetwork(example.reference, error=0.1, sureness=2.5), [example, other], rng, steps=2)
    table = calibration_table(pixels, 2.5)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    rows = {row[0]: row[1:] for row in cells if row}
    for label, temperature in (("before", 1.0), ("after", 2.5)):
        for region in (NEAR, WHOLE):
            parts = [pixels[region], pixels[region].of_step(1), pixels[region].of_step(2)]
            assert rows[f"ECE {region}, {label}"] == [f"{part.curve(temperature).error:.4f}" for part in parts]
            assert rows[f"NLL {region}, {label}"] == [f"{part.cost(temperature):.4f}" for part in parts]
    part = pixels[NEAR].of_set("more squares")
    assert rows["more squares"] == [f"{part.fit():.2f}", *(f"{part.curve(t).error:.4f}" for t in (1.0, 2.5))]
    before = pixels[NEAR].curve(1.0)
    certain = rows["0.93 to 1.00"]
    assert certain[:2] == [f"{100 * before.share[-1]:.1f} %", f"{100 * before.frequency[-1]:.1f} %"]
    assert certain[2:] == ["0.0 %", ""]


def test_a_set_without_a_wrong_pixel_has_no_temperature_of_its_own(example, rng):
    pixels = collect_pixels(ANetwork(example.reference, error=0.0), [example], rng)
    assert "| none " in calibration_table(pixels, 1.5)


def test_nothing_to_predict_is_refused(example, rng):
    network = ANetwork(example.reference, error=0.1)
    for examples, steps in (([], 5), ([example], 0)):
        with pytest.raises(ConfigError, match="Nothing to predict"):
            collect_pixels(network, examples, rng, steps=steps)


def test_a_classical_method_cannot_be_calibrated(example, rng):
    method = ClassicalMethod(lambda image, scribbles: scribbles[0] > 0)
    with pytest.raises(ConfigError, match="no logits"):
        collect_pixels(method, [example], rng, user=SimulatedUserConfig(type_probabilities=(1, 0, 0)))
