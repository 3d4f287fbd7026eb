"""Means, intervals and figures of agreement, against scipy, MONAI and sums by hand."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.spatial.distance import cdist
from scipy.special import expit

from scribblesegment.errors import ConfigError, DatasetError, FileFormatError
from studies import calibration, statistics
from studies.common import Results, Unit, agreement

rng = np.random.default_rng(20240229)


def table(columns, rows):
    """A frame from text."""
    return pd.read_csv(io.StringIO("\n".join([columns, *rows.split(", ")])), sep=" ")


def outline(mask):
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return np.argwhere(mask & ~inner).astype(float)


def test_agreement_is_that_of_outlines_by_brute_force():
    for _ in range(10):
        mask, reference = (rng.random((2, 24, 24)) < 0.1).cumsum(axis=2) % 2 > 0
        distances = cdist(outline(mask), outline(reference))
        pooled = np.concatenate([distances.min(axis=0), distances.min(axis=1)])
        found = agreement(mask, reference)
        assert found["hd95"] == pytest.approx(np.percentile(pooled, 95), abs=1e-5)
        assert found["surface_dice"] == pytest.approx(np.mean(pooled <= 1))
        assert found["dice"] == 2 * (mask & reference).sum() / (mask.sum() + reference.sum())
    nothing, something = np.zeros((2, 5, 4), bool)
    something[1, 2] = True
    assert agreement(nothing, nothing) == {"dice": 1, "hd95": 0, "surface_dice": 1}
    assert agreement(nothing, something) == {"dice": 0, "hd95": 5, "surface_dice": 0}  # the diagonal of 5 x 4 pixels


def test_an_interval_is_that_of_scipy():
    values = rng.normal(0.7, 0.1, 40)
    frame = pd.DataFrame({"method": "a", "set": "s", "task": "t", "subject": np.arange(40), "dice": values})
    (row,) = statistics.summarise(frame, ["method"], ["dice"], resamples=20_000).itertuples()
    ours = stats.bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=rng).confidence_interval
    assert row.mean == pytest.approx(values.mean())
    assert (row.low, row.high) == pytest.approx((ours.low, ours.high), abs=2e-3)


def test_every_group_counts_the_same_on_its_level():
    frame = table("set task subject dice", "s t1 p .2, s t1 p .4, s t1 q .9, s t2 p .1, z t p 1").assign(method="a")
    (row,) = statistics.summarise(frame, ["method"], ["dice"], resamples=500).itertuples()
    assert row.mean == pytest.approx(((np.mean([0.3, 0.9]) + 0.1) / 2 + 1) / 2)
    # Of the two subjects of the set, p alone, q alone (without t2) or both are drawn.
    alone = [((0.3 + 0.1) / 2 + 1) / 2, (0.9 + 1) / 2]
    assert (row.low, row.high) == pytest.approx((min(alone), max(alone)))
    by_example = statistics.summarise(frame, ["method"], ["dice"], levels=("set",), redraw="subject", resamples=10)
    assert by_example["mean"][0] == pytest.approx((np.mean([0.2, 0.4, 0.9, 0.1]) + 1) / 2)


def test_methods_see_the_same_draws_and_missing_values_are_left_out():
    frame = pd.DataFrame({"set": "s", "task": "t", "subject": np.arange(9), "dice": rng.random(9)})
    both = pd.concat([frame.assign(method="a"), frame.assign(method="b", dice=frame.dice + 1)])
    first, second = statistics.summarise(both, ["method"], ["dice"]).itertuples()
    assert (second.low, second.high) == pytest.approx((first.low + 1, first.high + 1))
    frame.loc[0, "dice"] = np.nan
    (row,) = statistics.summarise(frame.assign(method="a"), ["method"], ["dice"]).itertuples()
    assert (row.mean, row.rows) == (pytest.approx(frame.dice[1:].mean()), 8)


def test_steps_are_counted_and_compared_with_the_method_alone():
    frame = table("method step dice", "a 1 .5, a 2 .92, a 3 .8, b 1 .1, b 2 .2, b 3 .95")
    frame = frame.assign(procedure="p", set="s", task="t", subject="x", image=0, label=1, draw=0)
    steps = statistics.steps_to_target(frame, most_steps=2).set_index("method")
    assert steps[["steps", "never"]].to_numpy().tolist() == [[2, 0], [2, 1]]
    frame = table("task method steps", "t alone 4, t alone 4, t other 2, t other 0, u alone 1, u other 1")
    frame = frame.assign(procedure="p", set="s", draw=0, dice=1.0, hd95=0.0, reached=1.0)
    totals = statistics.sequence_totals(frame, "alone").set_index(["task", "method"])
    assert totals.change.unstack("method").other.to_dict() == {"t": -0.75, "u": 0}
    assert totals.without_steps["t", "other"] == 0.5


@pytest.mark.parametrize("over", ["set", "task"])
def test_the_best_are_counted_and_ties_count_for_all(over):
    frame = table("method set dice", "a x .5, a y .7, a z .9, b x .5, b y .8, b z .1")
    best = statistics.best_on(frame.assign(task=frame.set, subject="p"), over=over).set_index("method")
    assert best.T.to_dict() == {"a": {"best on": 2, "of": 3}, "b": {"best on": 2, "of": 3}}


def test_a_killed_run_goes_on_after_its_last_whole_unit(tmp_path):
    calls = []

    def units():
        for n in range(3):
            yield Unit({"task": "t", "image": n}, lambda n=n: calls.append(n) or [{"step": 1}, {"step": 2}])

    frame = Results(tmp_path / "x.csv", {"seed": 0}).measure(units(), quiet=True)
    with open(tmp_path / "x.csv", "ab") as file:
        file.write(b"half a li")
    results = Results(tmp_path / "x.csv", {"seed": 0}, weights={"net": "abc"})
    pd.testing.assert_frame_equal(results.measure(units(), quiet=True), frame)
    assert calls == [0, 1, 2]
    assert frame.image.tolist() == [0, 0, 1, 1, 2, 2]
    assert frame.hd95.isna().all()
    with pytest.raises(ConfigError, match="seed 0 then, 1 now"):
        Results(tmp_path / "x.csv", {"seed": 1})
    with pytest.raises(ConfigError, match="net with other weights"):
        Results(tmp_path / "x.csv", {"seed": 0}, weights={"net": "other"})
    with pytest.raises(FileFormatError, match="Cannot use"):
        Results(tmp_path / "x.csv" / "y.csv")


def test_calibration_error_and_temperature_are_those_of_known_probabilities():
    logits = rng.normal(0, 2, 200_000)
    inside = rng.random(logits.size) < expit(logits)
    assert calibration.calibration_error(expit(logits), inside) < 0.01
    assert calibration.calibration_error(expit(3 * logits), inside) > 0.1
    assert calibration.fit_temperature(3 * logits, inside) == pytest.approx(3, rel=0.02)
    assert calibration.log_loss(logits, inside, 1.0) < calibration.log_loss(logits, inside, 2.0)
    bins = calibration.reliability([0.0, 0.05, 1.0], [False, True, True], [1, 1, 2])
    assert bins[["probability", "frequency", "share"]].to_numpy().tolist() == [[0.025, 0.5, 0.5], [1, 1, 0.5]]
    with pytest.raises(DatasetError, match="right sign almost everywhere"):
        calibration.fit_temperature([1.0, -1.0], [True, False])
    with pytest.raises(ConfigError, match="Probabilities are in"):
        calibration.reliability([2.0], [True])
