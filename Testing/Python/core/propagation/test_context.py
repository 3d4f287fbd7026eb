from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.context.context_set import ContextEntry, ContextSet
from scribblesegment.data.preprocessing import IntensityRange
from scribblesegment.data.volume import Volume
from scribblesegment.propagation.config import PropagationConfig
from scribblesegment.propagation.propagator import SegmentContext

VOLUME = Volume(np.random.default_rng(0).random((20, 8, 9)), np.diag([1.0, 2.0, 3.0, 1.0]))
MASK = np.ones((8, 9), bool)


def context_of(*accepted, elsewhere=None, name="Liver", **settings):
    return SegmentContext(
        VOLUME,
        dict.fromkeys(accepted, MASK),
        0,
        name=name,
        elsewhere=elsewhere,
        source="ct",
        intensity_range=IntensityRange(0.0, 2.0),
        config=PropagationConfig(**settings),
    )


def indices(context, index):
    return [entry.index for entry in context.select(VOLUME.slice(0, index))]


def test_entries_are_normalised_with_the_range_of_the_volume_and_know_where_they_come_from():
    (entry,) = context_of(7).select(VOLUME.slice(0, 3))
    assert np.allclose(entry.image, VOLUME.array[7] / 2)
    assert (entry.source, entry.axis, entry.index, entry.spacing_mm) == ("ct", 0, 7, (2.0, 1.0))


@pytest.mark.parametrize(("name", "expected"), [("Liver", "Liver"), ("", "structure"), ("  ", "structure")])
def test_a_set_is_named_after_the_segment(name, expected):
    assert context_of(7, name=name).select(VOLUME.slice(0, 3)).label_name == expected


def test_the_same_choice_is_the_same_entries_in_the_same_order():
    context = context_of(1, 4, 8, 15, context_limit=2)
    first, second = context.select(VOLUME.slice(0, 5)), context.select(VOLUME.slice(0, 7))
    assert [entry.index for entry in first] == [4, 8]
    assert all(one is other for one, other in zip(first, second, strict=True))


def test_only_as_many_propagated_slices_as_wanted_join_and_the_nearest_ones():
    context = context_of(0, propagated_context=2)
    for index in range(1, 16):
        context.add(VOLUME.slice(0, index), MASK, 0.95)
    assert indices(context, 10) == [0, 10, 9]
    assert len(context._propagated) == 8  # no more than the fronts can use


@pytest.mark.parametrize(("mask", "confidence"), [(MASK, 0.89), (~MASK, 1.0)])
def test_doubtful_or_empty_slices_do_not_join(mask, confidence):
    context = context_of(0, propagated_context=2)
    context.add(VOLUME.slice(0, 1), mask, confidence)
    assert indices(context, 2) == [0]


def test_sets_from_elsewhere_keep_their_order_and_name():
    other = ContextEntry(np.zeros((5, 5), np.float32), np.ones((5, 5), bool), (1.0, 1.0), source="mr")
    chosen = context_of(2, elsewhere=ContextSet("Hepar", (other,))).select(VOLUME.slice(0, 3))
    assert chosen.label_name == "Hepar"
    assert chosen.entries[0] is other
