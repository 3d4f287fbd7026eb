from __future__ import annotations

import numpy as np
import pytest

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.in_context_methods import InContextMethods
from scribblesegment.evaluation.in_context_sizes import CONTEXT_ALONE, SizePlan, run_sizes
from scribblesegment.evaluation.in_context_tasks import ContextTask
from scribblesegment.evaluation.label_tasks import LabelExample
from scribblesegment.evaluation.stepwise import StepPrediction

SIDE = 32
rows, columns = np.ogrid[:SIDE, :SIDE]


def example(number, subject=None):
    reference = (rows - 10 - number) ** 2 + (columns - 14) ** 2 < 64
    image = reference.astype(np.float32) * 0.9
    return LabelExample("set", "set/disc", subject or f"p{number}", number, 1, image, reference)


TASK = ContextTask("set", "set/disc", tuple(example(n) for n in range(6)))


class Wider:
    """Segments a part of the structure that is the larger the more context it has and the more it was prompted."""

    def __init__(self, *, least_context=None, prompts=("scribbles", "clicks")):
        self.least_context, self.prompts = least_context, frozenset(prompts)
        self.contexts = []

    def set_context(self, context):
        self.contexts.append(context)

    def set_image(self, image):
        self.image, self.asked = image, 0

    def segment(self, prompts):
        self.asked += not prompts.is_empty
        known = len(self.contexts[-1] or ()) if self.least_context is not None else 0
        return StepPrediction((self.image > 0.5) & (columns < 8 + 2 * known + self.asked))


def plan(**options):
    defaults = {"sizes": (1, 2, 4), "corrected_sizes": (0, 2), "procedures": ("center-clicks",), "steps": 2}
    return SizePlan(**{**defaults, "targets": 2, "draws": 1, **options})


def run(*methods, tasks=(TASK,), **options):
    named = dict(methods)
    return run_sizes(tasks, InContextMethods(next(iter(named)), named), plan(**options)).results


def test_every_size_is_predicted_and_some_are_corrected():
    results = run(("alone", Wider()), ("context", Wider(least_context=1)), targets=1)
    assert [(r.method, r.procedure, r.size, r.step) for r in results] == [
        ("alone", "center-clicks", 0, 1),
        ("alone", "center-clicks", 0, 2),
        ("context", "center-clicks", 0, 1),
        ("context", "center-clicks", 0, 2),
        ("context", CONTEXT_ALONE, 1, 0),
        ("context", CONTEXT_ALONE, 2, 0),
        ("context", "center-clicks", 2, 1),
        ("context", "center-clicks", 2, 2),
        ("context", CONTEXT_ALONE, 4, 0),
    ]
    alone = {r.size: r.dice for r in results if r.procedure == CONTEXT_ALONE}
    assert alone[1] < alone[2] < alone[4]
    assert results[6].dice > alone[2]


def test_contexts_hold_other_subjects_with_their_references():
    method = Wider(least_context=1)
    family = tuple(example(n, subject=f"p{n // 2}") for n in range(6))
    results = run(("context", method), tasks=[ContextTask("set", "set/disc", family)], sizes=(4,), corrected_sizes=(4,))
    for result, context in zip([r for r in results if r.step == 0], method.contexts[::2], strict=True):
        own = {f"set {one.image_index}" for one in family if one.subject == result.subject}
        assert not own & {entry.source for entry in context}
        for entry in context:
            assert np.array_equal(entry.mask, family[int(entry.source.split()[1])].reference)


def test_a_smaller_context_is_part_of_a_larger_one():
    method = Wider(least_context=1)
    run(("context", method), targets=1, corrected_sizes=(1,))
    sources = [[entry.source for entry in context] for context in method.contexts]
    assert sources[-1][:2] == next(one for one in sources if len(one) == 2)
    assert len(set(sources[-1])) == 4


def test_sizes_beyond_the_images_are_left_out():
    assert {r.size for r in run(("context", Wider(least_context=1)), sizes=(1, 5, 6))} == {0, 1, 2, 5}


def test_methods_start_from_their_least_context():
    results = run(("combined", Wider(least_context=3)), corrected_sizes=(0, 1, 4))
    assert {(r.size, r.step) for r in results} == {(0, 1), (0, 2), (4, 0), (4, 1), (4, 2)}


def test_methods_without_prompts_predict_from_the_context_only():
    results = run(("context", Wider(least_context=1, prompts=())))
    assert {r.procedure for r in results} == {CONTEXT_ALONE}


def test_draws_differ_and_the_seed_decides():
    def sources(seed):
        method = Wider(least_context=1)
        run(("context", method), draws=3, targets=1, sizes=(4,), corrected_sizes=(0,), seed=seed)
        return [tuple(entry.source for entry in context) for context in method.contexts if context]

    assert sources(0) == sources(0)
    assert len(set(sources(0))) > 1
    assert sources(0) != sources(1)


def test_progress_reaches_the_end():
    told = []
    methods = InContextMethods("alone", {"alone": Wider()})
    run_sizes([TASK], methods, plan(), progress=lambda fraction, _: told.append(fraction))
    assert told == sorted(told)
    assert told[-1] == 1.0


@pytest.mark.parametrize(
    "options",
    [{"sizes": (0, 1)}, {"sizes": ()}, {"corrected_sizes": (-1,)}, {"corrected_sizes": ()}, {"draws": 0}, {"seed": -1}],
)
def test_impossible_plans_are_refused(options):
    with pytest.raises(ConfigError, match="at least"):
        plan(**options)


def test_without_tasks_nothing_is_measured():
    with pytest.raises(ConfigError, match="no task"):
        run(("alone", Wider()), tasks=())
