"""Tests of what the thread that refines does and keeps, with and without the package behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from scribblesegment import Volume
from scribblesegment.errors import NetworkError
from scribblesegment.service.worker import Task
from ScribbleSegmentLib.RefinementLogic import (
    PackageBackend,
    RefinementOptions,
    RefinementWork,
    WorkRequest,
)

NAMES = ("background", "Liver")


class StandIn:
    missing = ("torch",)

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.made: list[WorkRequest] = []

    def load(self, source: str, confirm: Callable[[str], bool]) -> Any:
        self.loaded.append(source)
        if source == "broken":
            raise NetworkError("It is broken.")
        return SimpleNamespace(name=f"net {source}", labels=NAMES)

    def correction(self, network: Any, request: WorkRequest) -> Any:
        self.made.append(request)
        number = len(self.made)
        labels = np.full((2, 3, 4), number, np.int16)
        return SimpleNamespace(segment=lambda progress, cancelled: labels, number=number)

    def refine(
        self, correction: Any, painted: Any, new_names: Mapping[int, str], request: WorkRequest, task: Task[Any]
    ) -> Any:
        return correction.number, painted, dict(new_names)


@pytest.fixture
def backend() -> StandIn:
    return StandIn()


@pytest.fixture
def work(backend: StandIn) -> RefinementWork:
    return RefinementWork(backend)


def a_request(**changes: Any) -> WorkRequest:
    volume = Volume(np.zeros((2, 3, 4), np.int16), np.eye(4))
    return replace(WorkRequest("liver.pt2", volume, "token", 0, None, "cpu", RefinementOptions()), **changes)


def run(work: RefinementWork, request: WorkRequest) -> int:
    return int(work.segment(request, Task()).labels[0, 0, 0])


def refine(work: RefinementWork, request: WorkRequest, names: tuple[str, ...] = NAMES) -> Any:
    return work.refine(request, np.zeros((2, 3, 4), np.int16), names, {2: "Cyst"}, Task())


def test_a_network_says_what_it_is_called_and_what_its_labels_are(work: RefinementWork) -> None:
    made = work.segment(a_request(), Task())
    assert (made.network, made.names, made.licence) == ("net liver.pt2", NAMES, "")


def test_network_and_image_are_brought_together_once(work: RefinementWork, backend: StandIn) -> None:
    assert run(work, a_request()) == run(work, a_request()) == 1
    number, _, new_names = refine(work, a_request(options=RefinementOptions(growing=False, threshold=3.0)))
    assert number == 1
    assert new_names == {2: "Cyst"}
    assert backend.loaded == ["liver.pt2"]


@pytest.mark.parametrize(
    "change",
    [
        {"token": "other"},
        {"axis": 1},
        {"index": 1},
        {"device": "cuda"},
        {"options": RefinementOptions(layers=3)},
        {"options": RefinementOptions(holding=False)},
        {"options": RefinementOptions(iterations=50)},
    ],
)
def test_what_was_computed_serves_again_only_for_the_same(work: RefinementWork, backend: StandIn, change: Any) -> None:
    run(work, a_request())
    assert run(work, a_request(**change)) == 2
    assert backend.loaded == ["liver.pt2"]


def test_another_network_is_loaded(work: RefinementWork, backend: StandIn) -> None:
    run(work, a_request())
    assert run(work, a_request(source="spleen.pt2")) == 2
    assert backend.loaded == ["liver.pt2", "spleen.pt2"]


def test_a_network_that_cannot_be_loaded_is_tried_again(work: RefinementWork, backend: StandIn) -> None:
    for _ in range(2):
        with pytest.raises(NetworkError, match="broken"):
            run(work, a_request(source="broken"))
    assert backend.loaded == ["broken", "broken"]


def test_a_result_with_other_labels_is_not_refined(work: RefinementWork) -> None:
    with pytest.raises(NetworkError, match=r"labels background, Kidney; net liver.pt2 has background, Liver"):
        refine(work, a_request(), ("background", "Kidney"))


def test_the_image_is_forgotten_and_the_network_stays(work: RefinementWork, backend: StandIn) -> None:
    run(work, a_request())
    work.forgetImage()
    assert run(work, a_request()) == 2
    assert backend.loaded == ["liver.pt2"]


def test_another_one_shares_nothing_but_what_loads(work: RefinementWork, backend: StandIn) -> None:
    run(work, a_request())
    other = work.another()
    assert run(other, a_request()) == 2
    assert backend.loaded == ["liver.pt2", "liver.pt2"]
    assert other.missing == ("torch",)


def test_the_package_itself_refines_a_network(tmp_path: Any) -> None:
    import torch

    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 2, 1)).eval()
    file = tmp_path / "small.pt"
    torch.jit.script(net).save(str(file))
    image = np.random.default_rng(0).normal(0, 1, (3, 24, 20)).astype(np.float32)
    image[:, 6:14, 5:15] += 8
    options = RefinementOptions(layers=2, iterations=60)
    request = a_request(source=str(file), volume=Volume(image, np.eye(4)), index=1, device="cpu", options=options)
    work = RefinementWork()
    assert isinstance(work._backend, PackageBackend)
    asked: list[str] = []
    task: Task[Any] = Task()

    def both() -> tuple[Any, Any]:
        made = work.segment(request, task)
        painted = np.full((24, 20), -1, np.int16)
        painted[9:11, 7:13], painted[1:3, 2:18], painted[20, 2:8] = 1, 0, 2
        return made, work.refine(request, painted, made.names, {2: "Cyst"}, task)

    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(both)
        while not future.done():
            if task.question is not None:
                asked.append(task.question)
                task.answer(True)
            wait([future], 0.005)
    made, refined = future.result()
    assert "small.pt" in asked[0]
    assert made.labels.shape == refined.labels.shape == (24, 20)
    assert refined.names == (*made.names, "Cyst")
    assert [g for _, g in task.take()] == list(refined.g_history)
    assert refined.g_history[-1] < refined.g_history[0]
