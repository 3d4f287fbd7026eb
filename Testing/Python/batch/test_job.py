from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from batch_folders import a_context
from batch_networks import Threshold, load_threshold
from slice_predictors import SlicePredictor

from scribblesegment.batch.images import find_images
from scribblesegment.batch.job import (
    BatchJob,
    BatchPlan,
    check_takes_context,
    fingerprints,
    load_for_batch,
    weights_digest,
)
from scribblesegment.batch.records import RecordFolder
from scribblesegment.batch.run import ImageWorker
from scribblesegment.batch.segmentation import BatchConfig
from scribblesegment.context.context_set import ContextSet
from scribblesegment.data.prompts import Prompts
from scribblesegment.errors import ConfigError, DeviceError, WeightsError
from scribblesegment.models.factory import build_network
from scribblesegment.propagation import PropagationConfig
from scribblesegment.weights.checkpoints import NetworkDescription, save_network

MADE_BY = {"context": "c", "network": "n", "options": "o"}
OPTIONS = {"features": [8, 16]}


def with_entry(**changes) -> ContextSet:
    first, *others = a_context()
    return ContextSet("Ball", (dataclasses.replace(first, **changes), *others))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, None),
        ({"network_digest": "m"}, "network"),
        ({"axis": 0}, "options"),
        ({"threads": 2}, "options"),
        ({"series": "2"}, "options"),
        ({"config": BatchConfig(window=(-160.0, 240.0))}, "options"),
        ({"config": BatchConfig(PropagationConfig(threshold=0.4))}, "options"),
        ({"contexts": [a_context("Other")]}, "context"),
        ({"contexts": [a_context(), a_context("Other")]}, "context"),
        ({"contexts": [with_entry(spacing_mm=(1.0, 1.5))]}, "context"),
        ({"contexts": [with_entry(mask=np.ones((12, 14), bool))]}, "context"),
        ({"contexts": [with_entry(image=np.zeros((12, 14), np.float32))]}, "context"),
        ({"contexts": [ContextSet("Ball", tuple(a_context())[::-1])]}, "context"),
        ({"contexts": [with_entry(source="x", identifier="y", created="2020-01-01")]}, None),
    ],
)
def test_what_changes_a_result_and_nothing_else_changes_its_fingerprint(changes, kind):
    usual = {"contexts": [a_context()], "network_digest": "n", "axis": None, "config": BatchConfig(), "threads": 1}
    before, after = fingerprints(**usual), fingerprints(**(usual | changes))
    assert {one for one in before if before[one] != after[one]} == ({kind} if kind else set())


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "tiny.safetensors"
    description = NetworkDescription(
        "context_unet", OPTIONS, capabilities=("clicks", "context", "scribbles"), temperature=1.5
    )
    save_network(path, build_network("context_unet", OPTIONS).state_dict(), description)
    return path


def test_a_network_is_loaded_as_its_file_describes_it_and_computes_the_same_bits_every_time(weights):
    predictors = [load_for_batch(weights, device="cpu", threads=threads) for threads in (1, 1, 2)]
    assert [predictor.plan.threads for predictor in predictors] == [1, 1, 2]
    assert predictors[0].plan == predictors[1].plan
    assert predictors[0].capabilities == {"clicks", "context", "scribbles"}
    assert (predictors[0].temperature, predictors[0].name) == (1.5, "tiny")
    logits = []
    for predictor in predictors[:2]:
        predictor.set_image(np.linspace(0, 1, 20 * 24).reshape(20, 24))
        predictor.set_context(a_context())
        logits.append(predictor.predict(Prompts.empty((20, 24))).logits)
    assert np.array_equal(*logits)


def test_networks_and_devices_that_will_not_do_are_refused(tmp_path):
    path = tmp_path / "plain.safetensors"
    network = build_network("scribble_unet", OPTIONS)
    save_network(path, network.state_dict(), NetworkDescription("scribble_unet", OPTIONS))
    with pytest.raises(ConfigError, match=r"plain\.safetensors takes no context"):
        load_for_batch(path, device="cpu", threads=1)
    with pytest.raises(ConfigError, match="takes no context"):
        check_takes_context(SlicePredictor(capabilities=("scribbles",)), "it")
    with pytest.raises(DeviceError, match="nonsense"):
        load_for_batch(path, device="nonsense", threads=1)
    with pytest.raises(WeightsError, match=r"Cannot read the weights file .*d\.pt"):
        weights_digest(tmp_path / "d.pt")


@pytest.fixture
def started(folders):
    """A batch of three images that is done."""
    for corner, name in enumerate(("a.nrrd", "b.nrrd", "c.nrrd")):
        folders.add(name, corner=corner)
    worker = ImageWorker(a_job(folders), Threshold(), [a_context()])
    for image in find_images(folders.images, recursive=False):
        worker.process(image)
    return folders


def a_job(folders, **made_by) -> BatchJob:
    return BatchJob("run", folders.output, "w", None, BatchConfig(), "cpu", 1, MADE_BY | made_by, load_threshold)


def plan(folders, *, redo=False, **made_by) -> BatchPlan:
    return BatchPlan.of(find_images(folders.images, recursive=False), a_job(folders, **made_by), redo=redo)


def to_do(plan: BatchPlan) -> str:
    return " ".join(image.name[0] for image in plan.to_do)


def edit(folders) -> None:
    (folders.output / "b.nrrd.seg.nrrd").write_bytes(b"edited by hand")


def fail(folders) -> None:
    records = RecordFolder(folders.output)
    record = dataclasses.replace(records.read("b.nrrd"), status="failed", result=None, error="no")
    records.write(record)


def begin_again(folders) -> None:
    records = RecordFolder(folders.output)
    for name in ("a.nrrd", "b.nrrd", "c.nrrd"):
        records.remove(name)
    records.begin("a.nrrd", "another run")


def change(folders) -> None:
    folders.add("b.nrrd", corner=9)
    folders.add("d.nrrd", corner=9)


LEFT = "  b.nrrd: its result was changed after it was written, and is left as it is; --redo replaces it"


@pytest.mark.parametrize(
    ("event", "options", "names", "lines"),
    [
        (None, {}, "", ["3 images: 3 done already, 0 to do"]),
        *((None, {one: "other"}, "a b c", [f"  3 done again: other {one} than before"]) for one in MADE_BY),
        (change, {}, "b d", ["4 images: 2 done already, 2 to do", "  1 done again: the image has changed"]),
        (lambda f: (f.output / "a.nrrd.seg.nrrd").unlink(), {}, "a", ["  1 done again: the result is gone"]),
        (edit, {}, "", ["3 images: 2 done already, 0 to do", LEFT]),
        (edit, {"context": "other"}, "a c", ["  2 done again: other context than before", LEFT]),
        (edit, {"redo": True}, "a b c", ["  3 done again: as --redo says"]),
        (fail, {}, "b", ["  1 done again: they could not be segmented before"]),
        (begin_again, {}, "b c a", []),  # what may have ended the program comes last
    ],
)
def test_what_is_to_do_and_why(started, event, options, names, lines):
    if event:
        event(started)
    found = plan(started, **options)
    assert to_do(found) == names
    assert found.describe()[-len(lines) :] == lines or not lines
    if options.get("redo"):  # what an interruption leaves is known without the option
        assert to_do(plan(started)) == names
