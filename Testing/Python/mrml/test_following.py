"""Propagation after every stroke, as the effect does it, whatever the user does meanwhile.

Sequences of gestures are played twice: each gesture interrupts the pass of the one before after a few slices, or every
pass comes to its end.
"""

from __future__ import annotations

import threading
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

pytest.importorskip("slicer", reason="needs slicer-core")

from propagation_workplace import LONG, SHAPE, BrightNetwork, Workplace, region

from scribblesegment import propagation
from scribblesegment.data.masks import CleanUp
from scribblesegment.mrml.recorder import Annotation
from scribblesegment.mrml.slice_segmenter import SegmenterOptions, SliceSegmenter

ENDLESS = 10**9


class Tapering(BrightNetwork):
    """Answers strokes by what is bright, whatever the slice showed before; makes so many slices before it waits."""

    def __init__(self) -> None:
        super().__init__(contrast=12.0)
        self.left, self.waits = ENDLESS, False
        self.changed = threading.Condition()

    def allow(self, count) -> None:
        with self.changed:
            self.left = count
            self.changed.notify_all()

    def predict(self, prompts, *, newest=None, cancelled=None):
        with self.changed:
            self.waits = True
            assert self.changed.wait_for(lambda: self.left > 0, timeout=LONG)
            self.waits, self.left = False, self.left - 1
        if prompts.scribbles.any():
            prompts = prompts.with_mask_input(np.zeros(prompts.shape))
        return super().predict(prompts)


def cone() -> np.ndarray:
    """A bright structure that wanders and tapers off at both ends, beside one that is nearly as bright."""
    k, j, i = np.indices(SHAPE)
    structure = (j - 12 - k / 4) ** 2 + (i - 12) ** 2 < 36 - (k - 7.5) ** 2 / 1.6
    return np.where(structure, 200 - 4 * k, np.where((i > 20) & (j > 6), 60, 0)).astype(np.int16)


class Painter(Workplace):
    """A user who paints in axial slices with *After every stroke* on."""

    def __init__(self, new_editor, *, slowly: bool) -> None:
        super().__init__(new_editor(cone(), np.eye(4)), Tapering())
        self.slowly = slowly
        self.other = self.neighbour(region(slice(4, 12), slice(16, 26), slice(10, 20)))
        self.segmenter = SliceSegmenter(self.service, save_state=self.save_state, images=self.images)
        self.protect = "all"
        self.lock()  # which opens it
        # Otherwise it matters whether the other segment had lost voxels before it was locked.
        self.node.SetOverwriteMode(self.node.OverwriteNone)
        self.editor.logic.ClearUndoState()

    def scroll(self, k) -> None:
        self.look("Axial", 17.0, 15.0, float(k))
        self.segmenter.slice_viewed(*self.segmenter.place(self.node, self.view))

    def stroke(self, k, column, positive, slices) -> None:
        """Paint, see the answer, and let the propagation make some slices."""
        self.propagation.stop()
        self.network.allow(ENDLESS)
        self.scroll(k)
        points = tuple((float(x), 14.0, float(k)) for x in np.linspace(column, column + 4, 5))
        self.segmenter.draw(*self.segmenter.place(self.node, self.view), Annotation("stroke", points, positive), 0.8)
        written = False
        while self.segmenter.busy:
            self.service.wait(0.01)
            written |= self.segmenter.poll().written
            self.propagation.poll()
        assert written
        self.network.allow(ENDLESS if self.slowly else slices)
        self.follow()

    def follow(self) -> None:
        if not self.accepted():
            return
        self.start(own_step=False, protect=self.protect)
        until = time.monotonic() + LONG
        while self.propagation.busy and not (self.network.waits and self.network.left <= 0):
            assert time.monotonic() < until
            self.service.wait(0.001)
            self.propagation.poll()

    def paint(self, k, column) -> None:
        """Make a slice what it is wanted to be with another effect, for which this one is left."""
        self.propagation.stop()
        self.save_state()
        self.remove(region(k))
        self.add(region(k, slice(8, 16), slice(column, column + 6)))

    def lock(self) -> None:
        """Lock the other segment, or open it; not while there is a result, since what is there then stays."""
        if self.mask().any():
            return
        self.protect = "all" if self.protect == "none" else "none"
        # What was in a slice does not decide which pieces stay: it is there or not when a stroke is answered.
        self.segmenter.options = SegmenterOptions(protect=self.protect, clean_up=CleanUp(keep_touched=False))

    def undo(self) -> None:
        if self.editor.logic.CanUndo():
            self.editor.logic.Undo()
        self.rest()

    def redo(self) -> None:
        if self.editor.logic.CanRedo():
            self.editor.logic.Redo()
        self.rest()

    def rest(self) -> None:
        """Let the window see what has happened."""
        self.network.allow(ENDLESS)
        until = time.monotonic() + LONG
        while self.propagation.busy or self.segmenter.busy:
            assert time.monotonic() < until
            self.service.wait(0.01)
            self.segmenter.poll()
            assert self.propagation.poll().problem is None

    def close(self) -> None:
        """Close the scene in the middle of it."""
        self.propagation.reset()
        self.segmenter.reset()
        self.editor.scene.Clear(False)
        self.network.allow(ENDLESS)
        assert not self.propagation.busy
        assert self.service.close(LONG)

    def shown(self):
        """All that is in the segments, comparable."""
        everything = [mask.tobytes() for mask in self.editor.masks().values()]
        return everything, self.target().gestures.to_text(), self.accepted()


@pytest.fixture
def evidence_of_neighbours_alone(monkeypatch):
    """Nothing that looks at all accepted slices: slices that are kept were made with the evidence of those of then."""
    alone = partial(propagation.PropagationConfig, trend=False, image_weight=0.0)
    monkeypatch.setattr(propagation, "PropagationConfig", alone)


slices, columns = st.integers(2, 13), st.integers(8, 22)
gestures = st.one_of(
    st.tuples(st.just("stroke"), slices, columns, st.booleans(), st.integers(0, 12)),
    st.tuples(st.just("paint"), slices, columns),
    *(st.tuples(st.just(name)) for name in ("undo", "redo", "lock")),
    st.tuples(st.just("scroll"), slices),
    st.tuples(st.just("close")),
)


@settings(
    max_examples=12,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # a failure is not made smaller, which would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.usefixtures("evidence_of_neighbours_alone")
@given(sequence=st.lists(gestures, min_size=2, max_size=7))
def test_interrupted_or_not_it_ends_the_same_to_the_bit(new_editor, sequence):
    ends = []
    for slowly in (True, False):
        painter = Painter(new_editor, slowly=slowly)
        for name, *how in sequence:
            if name == "close":
                painter.close()
                painter = Painter(new_editor, slowly=slowly)
            else:
                getattr(painter, name)(*how)
        painter.stroke(7, 10, True, 3)
        painter.rest()
        if not slowly:
            after = painter.shown()
            painter.undo()
            painter.redo()
            assert painter.shown() == after
        ends.append(painter.shown())
        painter.close()
    assert ends[0] == ends[1]
