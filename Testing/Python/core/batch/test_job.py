from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
from batch_folders import a_context
from batch_networks import load_threshold

from scribblesegment.batch.acceptance import AcceptanceConfig
from scribblesegment.batch.job import BatchJob, fingerprints
from scribblesegment.batch.segmentation import BatchConfig
from scribblesegment.context.context_set import ContextSet
from scribblesegment.propagation import PropagationConfig


def made_by(context=None, network="n", *, axis=None, config=None, threads=1):
    contexts = [context or a_context()] if not isinstance(context, list) else context
    return fingerprints(contexts, network, axis=axis, config=config or BatchConfig(), threads=threads)


def changed(**changes) -> set[str]:
    before, after = made_by(), made_by(**changes)
    assert before.keys() == after.keys()
    return {kind for kind in before if before[kind] != after[kind]}


def with_entry(**changes) -> ContextSet:
    first, *others = a_context()
    return ContextSet("Ball", (dataclasses.replace(first, **changes), *others))


def test_nothing_changes_by_itself():
    assert changed() == set()


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"network": "m"}, "network"),
        ({"axis": 0}, "options"),
        ({"threads": 2}, "options"),
        ({"config": BatchConfig(PropagationConfig(threshold=0.4))}, "options"),
        ({"config": BatchConfig(acceptance=AcceptanceConfig(bridge=2))}, "options"),
        ({"context": a_context("Other")}, "context"),
        ({"context": [a_context(), a_context("Other")]}, "context"),
        ({"context": with_entry(spacing_mm=(1.0, 1.5))}, "context"),
        ({"context": with_entry(mask=np.ones((12, 14), bool))}, "context"),
        ({"context": with_entry(image=np.zeros((12, 14), np.float32))}, "context"),
        ({"context": ContextSet("Ball", tuple(a_context())[::-1])}, "context"),
    ],
)
def test_what_changes_a_result_changes_its_digest(changes, kind):
    assert changed(**changes) == {kind}


def test_who_made_a_context_set_and_when_does_not_matter():
    assert changed(context=with_entry(source="x", identifier="y", created="2020-01-01")) == set()


def test_a_job_can_be_sent_to_another_process():
    job = BatchJob("r", Path("o"), "w", None, BatchConfig(), "cpu", 1, made_by(), load_threshold)
    assert pickle.loads(pickle.dumps(job)) == job
