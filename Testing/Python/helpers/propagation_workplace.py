"""A user who propagates in a scene on real MRML, with a network that sees what is bright."""

from __future__ import annotations

import threading
import time

import numpy as np
import slicer
from slice_predictors import Brightness

from scribblesegment.inference.devices import ExecutionPlan
from scribblesegment.mrml.propagation import PropagationHistory, PropagationOptions, VolumePropagation, run_of
from scribblesegment.mrml.recorder import Annotation
from scribblesegment.mrml.slice_segmenter import SliceSegmenter
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import read_accepted, write_accepted
from scribblesegment.service.service import InferenceService

SHAPE = (16, 30, 34)
STRUCTURE = (slice(3, 13), slice(8, 22), slice(6, 18))  # in slices 3 to 12
OTHER = (slice(3, 13), slice(8, 22), slice(22, 32))
BELOW = (slice(0, 16), slice(14, 30), slice(0, 34))  # overlaps the structure
LONG = 300.0  # seconds that no test reaches unless it fails, on a busy machine either


class BrightNetwork(Brightness):
    """Sees what is bright; waits before each slice while its gate is closed."""

    plan = ExecutionPlan("cpu")

    def __init__(self, **options) -> None:
        super().__init__(trust=1.0, **options)
        self.gate = threading.Semaphore(10**9)
        self.failing = False
        self.entered = 0

    def predict(self, prompts, *, newest=None, cancelled=None):
        self.entered += 1
        assert self.gate.acquire(timeout=LONG)
        if self.failing:
            raise ZeroDivisionError("a network with a fault")
        return super().predict(prompts)


def phantom() -> np.ndarray:
    array = np.zeros(SHAPE, np.int16)
    array[STRUCTURE], array[OTHER] = 200, 180
    return array


def region(*place) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[place] = True
    return mask


class Workplace:
    """A user with an editor, an axial view, a selected segment and a network."""

    def __init__(self, editor, network) -> None:
        self.editor, self.network, self.node = editor, network, editor.node
        self.service = InferenceService(lambda model, device: self.network)
        self.saves, self.contexts, self.images = 0, {}, SourceImages()
        self.propagation = VolumePropagation(
            self.service,
            save_state=self.save_state,
            context_of=lambda target: self.contexts.get(target.segment_id),
            images=self.images,
            history=PropagationHistory(),
        )
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(editor.scene)
        self.view = editor.scene.AddNewNodeByClass("vtkMRMLSliceNode")
        self.look("Axial", 17.0, 15.0, 7.0)
        self.segment = editor.add_segment()
        self.segmenter = SliceSegmenter(
            self.service,
            save_state=self.save_state,
            images=self.images,
            context_of=lambda target: self.contexts.get(target.segment_id),
        )

    def draw(self, first, last, *, positive=True, radius=1.5):
        """Paint between two points in the view; the updates that it brings."""
        points = tuple(map(tuple, np.linspace(first, last, 30).tolist()))
        drawn = Annotation("stroke", points, positive)
        self.segmenter.draw(*self.segmenter.place(self.node, self.view), drawn, radius)
        return self.answer()

    def answer(self):
        updates = []
        while self.segmenter.busy:
            self.service.wait(LONG)
            updates.append(self.segmenter.poll())
        return updates

    def look(self, orientation, *position):
        getattr(self.view, f"SetOrientationTo{orientation}")()
        self.view.JumpSliceByOffsetting(*position)

    def save_state(self):
        self.saves += 1
        self.editor.logic.SaveStateForUndo()

    def target(self, segment_id=None):
        return self.editor.target(segment_id or self.segment, self.images)

    def accept(self, mask, *slices, axis=0, segment_id=None):
        """Put slices of a mask (K, J, I) into a segment, and accept them."""
        part = np.zeros(SHAPE, bool)
        for index in slices:
            np.moveaxis(part, axis, 0)[index] = np.moveaxis(mask, axis, 0)[index]
        self.add(part, segment_id)
        self.mark(*slices, axis=axis, segment_id=segment_id)

    def mark(self, *slices, axis=0, segment_id=None):
        target = self.target(segment_id)
        accepted = read_accepted(target.segment, target.reference.grid)
        write_accepted(target.segment, accepted.added(axis, *slices))

    def add(self, mask, segment_id=None):
        self.editor.modify(segment_id or self.segment, mask, self.editor.logic.ModificationModeAdd)

    def remove(self, mask):
        self.editor.modify(self.segment, mask, self.editor.logic.ModificationModeRemove)

    def neighbour(self, mask=None):
        """Another segment, which the editor would overwrite."""
        segment_id = self.editor.add_segment(mask, own_layer=True)
        self.node.SetSelectedSegmentID(self.segment)
        self.node.SetOverwriteMode(self.node.OverwriteAllSegments)
        return segment_id

    def accepted(self):
        target = self.target()
        return read_accepted(target.segment, target.reference.grid).indices[0]

    def start(self, *, all_segments=False, own_step=True, **options):
        self.propagation.start(
            self.node, self.view, PropagationOptions(**options), all_segments=all_segments, own_step=own_step
        )

    def settle(self):
        """Let it come to its end; returns its report and problem."""
        self.network.gate.release(1000)
        until, problem = time.monotonic() + LONG, None
        while self.propagation.busy:
            assert time.monotonic() < until
            self.service.wait(0.01)
            update = self.propagation.poll()
            problem = update.problem or problem
            if update.report is not None:
                return update.report, problem
        return None, problem

    def run(self, **options):
        self.start(**options)
        report, problem = self.settle()
        assert problem is None
        return report

    def made(self, count, *, written=False):
        """Let the network make so many slices, and wait until it has made them or they are written, too."""
        self.network.gate.release(count)
        until = time.monotonic() + LONG
        while self.network.entered <= count:  # at the next one, those before it have been handed over
            assert time.monotonic() < until
            self.service.wait(0.001)
        while written and len(self.slices()) < count + 1:
            assert time.monotonic() < until
            self.propagation.poll()
            time.sleep(0.005)

    def mask(self, segment_id=None):
        return self.editor.mask(segment_id or self.segment)

    def slices(self):
        """Indices of slices that have something in them."""
        return np.flatnonzero(self.mask().any(axis=(1, 2))).tolist()

    def state(self):
        """Everything that undo brings back, comparable."""
        tags = {}
        for segment_id in self.editor.segmentation.GetSegmentIDs():
            target = self.target(segment_id)
            accepted = read_accepted(target.segment, target.reference.grid)
            tags[segment_id] = (accepted.indices, run_of(target.segment), self.mask(segment_id).tobytes())
        return tags

    def close(self):
        self.network.gate.release(1000)
        self.propagation.reset()
        assert self.service.close(LONG)
