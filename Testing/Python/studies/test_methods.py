"""What is prompted, how, and what of the data is chosen for it."""

from __future__ import annotations

import numpy as np
import pytest

from scribblesegment import ContextEntry, ContextSet, Prompts
from scribblesegment.errors import ImageError, PromptError
from studies import data, methods, prompting
from studies.common import generator

rows, columns = np.ogrid[:48, :48]
DISC = np.hypot(rows - 20, columns - 24) < 10
IMAGE = (0.2 + 0.6 * DISC).astype(np.float32)


def stroked(*, negative=True):
    prompts = Prompts.empty(DISC.shape).with_scribble((rows == 20) & (abs(columns - 24) < 4))
    return prompts.with_scribble(np.broadcast_to(rows > 44, DISC.shape), positive=False) if negative else prompts


@pytest.mark.parametrize("name", methods.CLASSICAL)
def test_classical_methods_follow_strokes_clicks_and_edges(name):
    if name == "grow-from-seeds":
        pytest.importorskip("slicer")
    method = methods.load_method(name)
    with pytest.raises(PromptError, match="No image"):
        method.predict(stroked())
    method.set_image(IMAGE)
    assert np.array_equal(method.predict(stroked()) > 0, DISC)
    clicks = Prompts.empty(DISC.shape).with_click((20, 24)).with_click((46, 4), positive=False)
    assert np.array_equal(method.predict(clicks) > 0, DISC)
    assert (method.predict(stroked(negative=False)) > 0).all()  # nothing stands against the object
    both = stroked().with_scribble((rows == 20) & (abs(columns - 24) < 4), positive=False)
    with pytest.raises(PromptError, match="No stroke is on the object alone"):
        method.predict(both)
    if "boxes" in method.prompts:
        assert np.array_equal(method.predict(Prompts.empty(DISC.shape).with_box((8, 12), (33, 37))) > 0, DISC)


class Recorder:
    """Gives logits and remembers what it was asked."""

    capabilities = frozenset({"scribbles", "context"})

    def __init__(self, value=1.0):
        self.value, self.previous, self.contexts = value, [], []

    def set_context(self, context):
        self.contexts.append(context)

    def set_image(self, image, *, spacing_mm):
        self.image = image

    def predict(self, prompts):
        self.previous.append(prompts.mask_input)
        self.logits = np.full(prompts.shape, self.value, np.float32)
        return self


def test_a_network_gets_its_logits_back_and_alone_no_context():
    network, context = Recorder(), ContextSet("t", (ContextEntry(IMAGE, DISC, (1.0, 1.0)),))
    for alone in (False, True):
        method = methods.NetworkMethod(network, alone=alone)
        method.set_context(context)
        method.set_image(IMAGE)
        method.predict(stroked())
        method.predict(stroked())
        assert prompting.predicts_first(method, context) is not alone
    assert [previous is None for previous in network.previous] == [True, False, True, False]
    assert network.contexts == [context, None]


def test_a_doubtful_prediction_from_the_context_is_drawn_anew():
    context = ContextSet("t", (ContextEntry(IMAGE, DISC, (1.0, 1.0)),))
    procedure = prompting.PROCEDURES["center-clicks"]
    for least, steps in ((0.0, [0, 1]), (0.9, [1, 2])):
        method = methods.NetworkMethod(Recorder(0.1))
        turns = prompting.interact(
            method, procedure, IMAGE, DISC, lambda step: generator(step), context=context, least_confidence=least
        )
        assert [next(turns).step for _ in range(2)] == steps
    broken = methods.NetworkMethod(Recorder(np.nan))
    with pytest.raises(ImageError, match="infinite"):
        next(prompting.interact(broken, procedure, IMAGE, DISC, generator))


def test_a_failure_keeps_the_last_mask():
    walker, procedure = methods.load_method("random-walker"), prompting.PROCEDURES["boxes"]
    turn = next(prompting.interact(walker, procedure, IMAGE, DISC, generator))
    assert (turn.dice, turn.mask.sum()) == (0, 0)
    assert "No stroke is on the object" in turn.failure


def test_the_choice_goes_round_labels_and_subjects_and_contexts_hold_other_subjects(sets, tmp_path):
    (tmp_path / "discs.npz").write_bytes((sets / "discs.npz").read_bytes())
    alone, among = (data.label_examples(folder, per_set=4) for folder in (tmp_path, sets))
    chosen = [(one.label, one.subject) for one in alone]
    assert [label for label, _ in chosen] == [1, 1, 2, 2]
    assert len({subject for _, subject in chosen}) == 4
    assert chosen == [(one.label, one.subject) for one in among if one.set_name == "discs"]
    (task,), left_out = data.context_tasks(sets, least_images=7)
    assert "6 images show it, 7 are needed" in left_out["discs/other"]
    target = task.examples[0]
    large, small = ([one.source for one in task.context(target, 0, size, 0)] for size in (5, 2))
    assert large[:2] == small
    assert f"discs {target.image_index}" not in large
