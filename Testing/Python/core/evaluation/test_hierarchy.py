from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scribblesegment.evaluation.hierarchy import hierarchical_bootstrap

GROUPS = [
    ("a", "liver", "p"),
    ("a", "liver", "p"),
    ("a", "liver", "q"),
    ("a", "spleen", "p"),
    ("b", "cell", "r"),
    ("b", "cell", "s"),
]
VALUES = np.array([0.0, 0.2, 0.5, 1.0, 0.3, 0.9])


def test_subjects_tasks_and_sets_count_the_same(rng):
    means = hierarchical_bootstrap(GROUPS, VALUES, rng, 10)
    assert list(means) == ["a", "b"]
    assert means["a"].shape == (11,)
    assert means["a"][0] == pytest.approx((((0.0 + 0.2) / 2 + 0.5) / 2 + 1.0) / 2)
    assert means["b"][0] == pytest.approx(0.6)


def test_draws_are_those_of_whole_subjects(rng):
    draws = hierarchical_bootstrap(GROUPS, VALUES, rng, 4000)["a"][1:]
    # p and p, p and q, or q and q, who has no spleen: one to two to one.
    expected = {round((0.1 + 1.0) / 2, 6): 0.25, round((0.3 + 1.0) / 2, 6): 0.5, 0.5: 0.25}
    values, counts = np.unique(draws.round(6), return_counts=True)
    assert set(values.tolist()) == set(expected)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        assert count / 4000 == pytest.approx(expected[value], abs=0.03)


def test_all_columns_see_the_same_draws(rng):
    values = np.stack([VALUES, VALUES + 1, 2 * VALUES], axis=1).reshape(6, 3, 1)
    means = hierarchical_bootstrap(GROUPS, values, rng, 50)
    for entry in means.values():
        assert entry.shape == (51, 3, 1)
        np.testing.assert_allclose(entry[:, 1], entry[:, 0] + 1)
        np.testing.assert_allclose(entry[:, 2], 2 * entry[:, 0])


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xyz"), st.sampled_from("pqr"), st.floats(0, 1)),
        min_size=1,
        max_size=12,
    ),
    st.integers(0, 100),
)
def test_every_mean_lies_within_the_values_of_its_set(rows, seed):
    groups = [row[:3] for row in rows]
    means = hierarchical_bootstrap(groups, np.array([row[3] for row in rows]), np.random.default_rng(seed), 40)
    for name, entry in means.items():
        of_set = [row[3] for row in rows if row[0] == name]
        assert min(of_set) - 1e-9 <= entry.min() <= entry.max() <= max(of_set) + 1e-9
