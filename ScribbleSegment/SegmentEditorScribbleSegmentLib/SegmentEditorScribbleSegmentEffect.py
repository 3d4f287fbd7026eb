"""The effect *Scribble Segment*: Slicer's events in, calls to the segmenter out."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path

import qt
import slicer
import vtk
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from scribblesegment.errors import PromptError, ScribbleSegmentError
from scribblesegment.mrml.geometry import xy_to_world
from scribblesegment.mrml.labelmaps import refresh_derived
from scribblesegment.mrml.propagation import VolumePropagation, run_of
from scribblesegment.mrml.recorder import AnnotationRecorder
from scribblesegment.mrml.slice_segmenter import SliceSegmenter
from scribblesegment.mrml.source_image import SourceImages
from scribblesegment.mrml.tags import ACCEPTED_TAG, TAG, read_tag
from ScribbleSegmentLib.ContextLibrary import sharedContexts
from ScribbleSegmentLib.Inference import sharedInference
from ScribbleSegmentLib.SegmentEditorAccess import EFFECT_NAME

from .ContextSection import ContextSection
from .Options import Options
from .PropagationSection import PropagationSection
from .SliceViews import SliceViews

_ICON_FILE = Path(__file__).resolve().parent.parent / "Resources" / "Icons" / "SegmentEditorScribbleSegment.svg"

_BRUSH_STEP = 1.2
_TOOL_KEYS = {"s": "brush", "c": "click", "o": "box", "l": "lasso"}

# Slicer's idle event loop keeps Python's global lock, so that the thread that predicts would stand still. Each tick
# therefore waits on it, without the lock; the window stays responsive between ticks.
_INTERVAL_MS = 1
_LENT_SECONDS = 0.012
_LENT_WHILE_DRAWING_SECONDS = 0.004

# Surfaces, which take seconds in large segments, are made again when nothing has been drawn or written for a while.
_SURFACE_PAUSE_MS = 300
# While a propagation writes without a pause, they are made once in so many seconds, for a fifth of the time at most.
_SURFACE_SECONDS, _SURFACE_SHARE = 1.0, 4.0

# How long an answer may take before it is said that one is on its way.
_PATIENCE_SECONDS = 0.3


class SegmentEditorScribbleSegmentEffect(AbstractScriptedSegmentEditorEffect, VTKObservationMixin):
    """Segments the shown slice from strokes, clicks, boxes and lassos, with a neural network.

    Slicer makes one for the list of effects and a clone for every Segment Editor. Only while it is active does it have
    actors in views or a running timer; between, it keeps its results and watches for the scene to close.
    """

    sourceFile = Path(__file__).as_posix()

    def __init__(self, scriptedEffect):
        scriptedEffect.name = EFFECT_NAME  # not translated: modules find effects by name
        scriptedEffect.title = _("Scribble Segment")
        scriptedEffect.perSegment = True
        scriptedEffect.requireSegments = True
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        VTKObservationMixin.__init__(self)
        self.options = self.propagation = self.context = None  # once the options are shown
        self.segmenter = None  # from the first activation on
        self.views = self.timer = None  # while active
        self.recorder = AnnotationRecorder()
        self._inference = None
        self._place = None  # where the gesture being drawn began
        self._pressed = False  # whether nothing gets ready for it yet
        self._told = None  # what is shown of the service's state
        self._message, self._problem, self._note = "", False, ""
        self._hidden = ""  # what was said last of a result that cannot be seen
        self._busySince = None
        self._busyShown = False
        self._selected = ""  # identifier of the segment
        self._viewName = "Red"
        # Segments whose surfaces are out of date, by segmentation node: now, and in saved undo states.
        self._underived, self._underivedStates, self._marks = {}, {}, {}
        self._nextSurface = 0.0  # when they may be made again while a propagation runs
        self._taking = False  # whether segments change because the effect changes them
        self._surfaceTimer = qt.QTimer()
        self._surfaceTimer.setSingleShot(True)
        self._surfaceTimer.setInterval(_SURFACE_PAUSE_MS)
        self._surfaceTimer.timeout.connect(self._onPause)

    # What Slicer calls ------------------------------------------------------------------------------------------

    def clone(self):
        """Give a new effect of this class to another Segment Editor."""
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        clonedEffect = effects.qSlicerSegmentEditorScriptedEffect(None)
        clonedEffect.setPythonSource(self.sourceFile)
        return clonedEffect

    def icon(self):
        """Give the icon of the effect's button."""
        return qt.QIcon(str(_ICON_FILE))

    def helpText(self):
        """Give the text shown above the options."""
        # Slicer shows what comes before the line break, and the rest on demand.
        details = [
            _("<b>Left button, drag:</b> stroke on the structure; with <b>Ctrl</b> on what does not belong to it."),
            _("<b>Left button, press:</b> click. Box and lasso: drag around the structure."),
            _("<b>X:</b> swap Include and Exclude. <b>S, C, O, L:</b> brush, click, box, lasso."),
            _("<b>Shift + wheel:</b> size of the brush."),
            _("<b>Enter:</b> apply a preview, or accept the shown slice as it is."),
            _("Each stroke is one undo step. Strokes are saved with the segmentation."),
            _("<b>Propagate</b> goes on through the volume; <b>Examples</b> help with the next patient."),
        ]
        return (
            "<html>"
            + _("Segment the slice from strokes, clicks and boxes")
            + '<br>.<p><ul style="margin: 0">'
            + "".join(f"<li>{line}" for line in details)
            + "</ul><p></html>"
        )

    def setupOptionsFrame(self):
        """Build the options."""
        self.options = Options(self)
        self.propagation = PropagationSection(self)
        self.context = ContextSection(self)
        layout = self.options.widget.layout()
        for section in (self.propagation, self.context):
            layout.insertWidget(layout.indexOf(self.options.ui.adjustSection), section.widget)
        self.scriptedEffect.addOptionsWidget(self.options.widget)

    def setMRMLDefaults(self):
        """Give the parameters their first values."""
        if self.options is not None:
            self.options.setDefaults()

    def createCursor(self, widget):
        """Show a plain cross; the brush is drawn around it."""
        return qt.QCursor(qt.Qt.CrossCursor)

    def activate(self):
        """Get ready: load the network in the background, show what was drawn."""
        inference = sharedInference()
        if self.segmenter is None or self._inference is not inference:
            images, saveState, contextOf = SourceImages(), self._saveState, self.context.contextOf
            self._inference = inference
            self.segmenter = SliceSegmenter(
                inference,
                save_state=saveState,
                images=images,
                context_of=contextOf,
                on_finished=self.context.onFinished,
                derive=self._deriveLater,
            )
            self.propagation.engine = VolumePropagation(
                inference, save_state=saveState, context_of=contextOf, images=images, derive=self._deriveLater
            )
        self.segmenter.options = self.options.segmenterOptions
        sharedContexts().retry()
        self.views = SliceViews(self, preferredName=self._viewName)
        self.timer = qt.QTimer()
        self.timer.setInterval(_INTERVAL_MS)
        self.timer.timeout.connect(self.tick)
        self.removeObservers()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneClosing)
        if self.editorNode is not None:
            self.addObserver(self.editorNode, vtk.vtkCommand.ModifiedEvent, self.onSelectionChanged)
            self._observeSegmentation()
        self._told = None
        inference.prepare()
        self.timer.start()
        self.refresh()

    def deactivate(self):
        """Leave nothing behind in views; what was drawn stays with its segment, and is answered on return."""
        self.recorder.cancel()
        if self.views is None:
            return
        self.propagation.interrupt()
        self.segmenter.leave()
        # Not waited for: a thread that is importing PyTorch takes seconds to end, and does so by itself.
        self._inference.rest(timeout_s=0.1)
        self.propagation.engine.poll()  # so that it can be gone on from
        self.context.cleanup()
        self._derive()
        self.timer.stop()
        self._showBusy(False)
        self.views.remove()
        self._viewName = self.views.preferredName
        self.views = self.timer = None
        self.removeObservers()
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneClosing)
        for node, segmentIds in self._underivedStates.items():  # undo may still bring back surfaces out of date
            self._observe(node)
            self._marks[node] = _marksOf(node, segmentIds)

    def cleanup(self):
        """Let go of everything when the editor is destroyed, also while active."""
        self.deactivate()
        self.removeObservers()
        self.segmenter = None

    def updateGUIFromMRML(self):
        """Show the parameters, and use them."""
        if self.options is None:
            return
        # Again: a loaded scene may have brought an editor node that lacks them.
        self.setMRMLDefaults()
        self.options.update()
        if self.views is not None:
            self.segmenter.options = self.options.segmenterOptions
            self.views.refreshSoon()

    def updateMRMLFromGUI(self):
        """Nothing to do: every widget writes its parameter when it is changed."""

    def sourceVolumeNodeChanged(self):
        """Take the other image."""
        self.refresh()

    def referenceGeometryChanged(self):
        """Take the other voxels."""
        self.refresh()

    def layoutChanged(self):
        """Draw in the views that there are now."""
        if self.views is not None:
            self.views.remove()
            self.views.refreshSoon()

    def processViewNodeEvents(self, callerViewNode, eventId, viewWidget):
        """Move what is drawn along with the view."""
        if self.views is not None and viewWidget.className() == "qMRMLSliceWidget":
            self.views.follow(viewWidget)

    def processInteractionEvents(self, callerInteractor, eventId, viewWidget):
        """Draw. Returns whether nobody else may have the event."""
        if self.views is None or viewWidget.className() != "qMRMLSliceWidget":
            return False
        handler = {
            vtk.vtkCommand.LeftButtonPressEvent: self.onPress,
            # The second press of a double click; it would enlarge the view.
            vtk.vtkCommand.LeftButtonDoubleClickEvent: self.onPress,
            vtk.vtkCommand.MouseMoveEvent: self.onMove,
            vtk.vtkCommand.LeftButtonReleaseEvent: self.onRelease,
            vtk.vtkCommand.MouseWheelForwardEvent: self.onWheel,
            vtk.vtkCommand.MouseWheelBackwardEvent: self.onWheel,
            vtk.vtkCommand.KeyPressEvent: self.onKey,
            vtk.vtkCommand.LeaveEvent: self.onLeave,
        }.get(eventId)
        return False if handler is None else handler(callerInteractor, viewWidget, eventId)

    # Mouse and keys ---------------------------------------------------------------------------------------------

    def onPress(self, interactor, viewWidget, event) -> bool:
        """Begin a gesture, in the slice and the segment that are shown and selected now."""
        if interactor.GetShiftKey() or interactor.GetAltKey() or self.recorder.active:
            return False
        self.say("")
        try:
            self._place = self.segmenter.place(self.editorNode, viewWidget.mrmlSliceNode())
        except ScribbleSegmentError as error:
            self.say(str(error), problem=True)
            return True
        self.propagation.interrupt()
        xy, positive = interactor.GetEventPosition(), self._isPositive(interactor)
        self.recorder.press(xy, self._world(xy, viewWidget), positive=positive, tool=self.options.tool)
        self.views.showCurrent(viewWidget, self.recorder, xy, self._place)
        self.views.showBrush(viewWidget, xy, positive=positive)
        self._pressed = True
        self.startTimer()
        return True

    def onMove(self, interactor, viewWidget, event) -> bool:
        """Continue a gesture, and let the brush follow the mouse."""
        xy = interactor.GetEventPosition()
        self.views.takeKeys(viewWidget)
        if self.recorder.active and self.recorder.move(xy, self._world(xy, viewWidget)):
            self.views.showCurrent(viewWidget, self.recorder, xy, self._place)
        # The brush after it, because this may draw the view.
        self.views.showBrush(viewWidget, xy, positive=self._isPositive(interactor))
        return self.recorder.active

    def onRelease(self, interactor, viewWidget, event) -> bool:
        """Finish a gesture."""
        if not self.recorder.active:
            return False
        xy = interactor.GetEventPosition()
        radius = self.views.brushRadiusPixels(viewWidget)
        drawn = self.recorder.release(xy, self._world(xy, viewWidget), brush_radius_pixels=radius)
        radiusMm = self.views.brushDiameterMm(viewWidget) / 2
        self.attempt(lambda: self.segmenter.draw(*self._place, drawn, radiusMm))
        self.views.finishCurrent()
        # A quick network answers before anything is drawn, and the view changes once instead of twice.
        self.tick()
        return True

    def onWheel(self, interactor, viewWidget, event) -> bool:
        """Change the brush's size when Shift is down."""
        if not interactor.GetShiftKey():
            return False
        larger = event == vtk.vtkCommand.MouseWheelForwardEvent
        self.options.scaleBrush(_BRUSH_STEP if larger else 1.0 / _BRUSH_STEP)
        self.views.showBrush(viewWidget, interactor.GetEventPosition(), positive=self.options.isOn("Positive"))
        return True

    def onKey(self, interactor, viewWidget, event) -> bool:
        """Swap polarity, choose a tool, or accept."""
        key = interactor.GetKeySym()
        if interactor.GetControlKey() or interactor.GetAltKey():
            return False
        if key in ("x", "X"):
            self.options.swapPolarity()
        elif key.lower() in _TOOL_KEYS:
            self.options.chooseTool(_TOOL_KEYS[key.lower()])
        elif key in ("Return", "KP_Enter"):
            self.views.lastUsed = viewWidget
            self.attempt(lambda: self.propagation.accept(True))
        else:
            return False
        return True

    def onLeave(self, interactor, viewWidget, event) -> bool:
        """Hide the brush outside of views."""
        self.views.hideBrush(viewWidget)
        return False

    # What happens then ------------------------------------------------------------------------------------------

    def onAction(self, name: str) -> None:
        """Carry out a button of the options."""
        actions = {
            "apply": lambda: self.segmenter.accept(),
            "predict": lambda: self.segmenter.predict(self.editorNode, self.sliceNode),
            "remove": lambda: self.segmenter.remove_gesture(
                self.editorNode, self.sliceNode, self.options.selectedGesture
            ),
            "clearSlice": lambda: self.segmenter.clear_slice(self.editorNode, self.sliceNode),
            "clearSegment": lambda: self.segmenter.clear_segment(self.editorNode),
        }
        if self.views is not None:
            self.propagation.interrupt()
            self.attempt(actions[name])

    def onLink(self, link: str) -> None:
        """Follow a link in the status line: takes the example back that was added by itself."""
        self.attempt(lambda: self.context.takeBack())
        self.say("")

    def onResultOption(self, finished: bool) -> None:
        """Make a changed threshold or clean-up count."""
        if self.views is None or self.views.activeView is None:
            return
        self.propagation.interrupt()
        self.segmenter.options = self.options.segmenterOptions
        self.attempt(lambda: self.segmenter.reapply(self.editorNode, self.sliceNode, finished=finished))

    def onShown(self, target, plane) -> None:
        """The active view shows a slice of a target, or None and None."""
        self.segmenter.slice_viewed(target, plane)
        if target is not None and self.options.isOn("ShowProbability"):
            self.segmenter.look(target, plane)
            self.startTimer()
        self.propagation.showSlice(target, plane)
        self.context.sliceShown = target is not None
        self.context.refresh()

    def onSelectionChanged(self, caller, event) -> None:
        """Follow the editor's selections."""
        self._observeSegmentation()
        selected = self.editorNode.GetSelectedSegmentID()
        if selected != self._selected:
            self._selected = selected
            self.say("")
            self.propagation.selected(selected)
            segment = self._segment()
            if segment is not None and not read_tag(segment, TAG):
                self.options.includeFirst()  # nothing can be taken out of a new segment
        self.onSegmentsChanged(caller, event)

    def onSegmentsChanged(self, caller, event) -> None:
        """Follow undo, redo, and edits by others."""
        if self.views is not None:
            self.views.refreshSoon()
            if not self._taking and self._problem:
                self.say("")  # what it was about has changed
        for node, segmentIds in self._underivedStates.items():  # perhaps undo, to a state with surfaces out of date
            changed = True
            if self.views is None:  # another effect makes surfaces itself; undo is told from its edits by our tags
                marks = _marksOf(node, segmentIds)
                changed, self._marks[node] = marks != self._marks.get(node, marks), marks
            if changed and not self._taking:
                self._deriveLater(node, segmentIds)

    def onSceneClosing(self, caller=None, event=None) -> None:
        """Drop what belongs to a scene that goes."""
        self.recorder.cancel()
        self._underived.clear()
        self._underivedStates.clear()
        self._marks.clear()
        if self.segmenter is not None:
            self.propagation.reset()
            self.segmenter.reset()
        if self.views is not None:
            self.views.hideAll()

    def tick(self) -> None:
        """Take in results; nothing else happens as long as nothing comes."""
        inference = self._inference
        if self._pressed:  # not while the mouse waits
            self._pressed = False
            with contextlib.suppress(ScribbleSegmentError):  # told when the gesture is finished
                self.segmenter.expect(*self._place)
        inference.wait(_LENT_WHILE_DRAWING_SECONDS if self.recorder.active else _LENT_SECONDS)
        state = inference.state
        if (state.kind, state.message) != self._told:
            self._onState(state)
        self._taking = True
        try:
            update = self.segmenter.poll()
            changed = update.changed | self.propagation.poll()
            if update.written:  # begun by the next tick: the answer is shown first
                self.propagation.follow(update.segment_id)
            if update.guessed is not None:
                self.propagation.engine.forget(*update.guessed)
        finally:
            self._taking = False
        self.context.poll()
        if update.problem:
            self.say(update.problem, problem=True)
        elif update.changed:
            self._hidden = self._hiddenNote()
            self.say(self._hidden)
        if changed:
            self.views.refreshSoon()
        waiting = self.segmenter.busy or state.kind == "loading"
        if not waiting:
            self._busySince = None
        elif self._busySince is None:
            self._busySince = time.monotonic()
        self._showBusy(waiting and time.monotonic() - self._busySince > _PATIENCE_SECONDS)
        getsReady = self.recorder.active and inference.busy
        if not (waiting or getsReady or self.propagation.busy or self.context.busy):
            self.timer.stop()

    def _saveState(self) -> None:
        for node, segmentIds in self._underived.items():
            self._underivedStates.setdefault(node, set()).update(segmentIds)
        self.scriptedEffect.saveStateForUndo()

    def _deriveLater(self, segmentationNode, segmentIds) -> None:
        self._underived.setdefault(segmentationNode, set()).update(segmentIds)
        if not (self.propagation.busy and self._surfaceTimer.isActive()):
            self._surfaceTimer.start()

    def _onPause(self) -> None:
        early = self.propagation.busy and time.monotonic() < self._nextSurface
        if early or self.recorder.active or (self.views is not None and self.segmenter.busy):
            self._surfaceTimer.start()
        else:
            self._derive()

    def _derive(self) -> None:
        """Make surfaces again."""
        self._surfaceTimer.stop()
        underived, self._underived = self._underived, {}
        began = time.monotonic()
        self._taking = True
        try:
            for node, segmentIds in underived.items():
                if node.GetScene() is None:
                    continue
                refresh_derived(node, segmentIds)
                for segmentId in segmentIds:
                    node.GetSegmentation().InvokeEvent(slicer.vtkSegmentation.RepresentationModified, segmentId)
        finally:
            self._taking = False
            ended = time.monotonic()
            self._nextSurface = ended + max(_SURFACE_SECONDS, _SURFACE_SHARE * (ended - began))

    def _onState(self, state) -> None:
        before, self._told = self._told, (state.kind, state.message)
        if state.kind == "ready" and (before is None or before[0] != "ready"):
            self.segmenter.retry()  # what was drawn while there was no network is answered now
            self.context.refresh()
        self.options.ui.setUpButton.visible = state.kind == "failed"
        if state.kind == "failed":
            self.say(state.message, problem=True)
        else:
            self._showMessage()

    def _showBusy(self, busy: bool) -> None:
        if busy != self._busyShown:
            self._busyShown = busy
            self.options.showBusy(busy)
            self.views.showWaiting(busy)

    def onDisplayChanged(self, caller, event) -> None:
        """Say no longer that a segment is hidden when it is shown."""
        if self._hidden and self._message == self._hidden:
            self._hidden = self._hiddenNote()
            self.say(self._hidden)

    def _hiddenNote(self) -> str:
        """Say that a result cannot be seen, where Slicer's other effects would ask in a dialog."""
        node = self.editorNode.GetSegmentationNode()
        displayNode = None if node is None else node.GetDisplayNode()
        if displayNode is None:
            return ""
        if not displayNode.GetVisibility():
            return _("The segmentation is hidden. Show it in the module Data to see the result.")
        if displayNode.GetSegmentVisibility(self.editorNode.GetSelectedSegmentID()):
            return ""
        return _("The selected segment is hidden. Press its eye in the list of segments to see the result.")

    def refresh(self) -> None:
        """Read the editor's selections anew."""

        def getReady() -> None:
            self._note = self.segmenter.target(self.editorNode).source.note
            self.say("")

        self._note = ""
        self.attempt(getReady)

    # For the sections -------------------------------------------------------------------------------------------

    def attempt(self, action) -> None:
        """Do something that may not be possible; then the status line says why, and nothing is lost."""
        if self.views is None:
            return
        message, taking, self._taking = self._message, self._taking, True
        try:
            action()
            if self._problem and self._message == message:
                self.say("")  # what it was about has changed
        except ScribbleSegmentError as error:
            self.say(str(error), problem=True)
            logging.debug("Scribble Segment: %s", error)
        finally:
            self._taking = taking
        self.startTimer()
        if self.views is not None:  # it may have left the effect, as by selecting another segmentation
            self.views.refreshSoon()

    def startTimer(self) -> None:
        """Look for results until there are none to come."""
        if self.timer is not None and not self.timer.isActive():
            self.timer.start()

    def say(self, text: str, *, problem: bool = False) -> None:
        """Say something in the status line until there is something newer; nothing gives way to what always holds."""
        self._message, self._problem = text, problem
        self._showMessage()

    def _showMessage(self) -> None:
        """Show the newest message; else a note on the image, or on the network."""
        always = self._note or ("" if self._told is None else self._told[1])
        self.options.showStatus(self._message or always, problem=self._problem and bool(self._message))

    def _segment(self):
        node = self.editorNode.GetSegmentationNode()
        return None if node is None else node.GetSegmentation().GetSegment(self._selected or "")

    @property
    def editorNode(self):
        """The vtkMRMLSegmentEditorNode of the editor."""
        return self.scriptedEffect.parameterSetNode()

    @property
    def sliceNode(self):
        """The vtkMRMLSliceNode of the view that buttons act on.

        Raises:
            PromptError: There is none.
        """
        viewWidget = self.views.activeView
        if viewWidget is None:
            raise PromptError(_("There is no slice view. Choose a layout that has one."))
        return viewWidget.mrmlSliceNode()

    def _isPositive(self, interactor) -> bool:
        return self.options.isOn("Positive") != bool(interactor.GetControlKey())

    @staticmethod
    def _world(xy, viewWidget):
        """The world position under a pixel of a view, as three floats."""
        return tuple(xy_to_world(viewWidget.mrmlSliceNode(), xy).tolist())

    def _observeSegmentation(self) -> None:
        node = self.editorNode.GetSegmentationNode()
        if node is not None and self.hasObserver(node, slicer.vtkSegmentation.SegmentModified, self.onSegmentsChanged):
            return
        self.removeObservers(self.onSegmentsChanged)
        self.removeObservers(self.onDisplayChanged)
        if node is not None:
            self._observe(node)
            self.addObserver(node, node.DisplayModifiedEvent, self.onDisplayChanged)

    def _observe(self, node) -> None:
        for event in (
            slicer.vtkSegmentation.SegmentModified,
            slicer.vtkSegmentation.SourceRepresentationModified,
            slicer.vtkSegmentation.SegmentAdded,
            slicer.vtkSegmentation.SegmentRemoved,
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
        ):
            self.addObserver(node, event, self.onSegmentsChanged)


def _marksOf(node, segmentIds):
    """What strokes, accepted slices and propagation have written to segments, to tell states of theirs apart."""
    segments = [node.GetSegmentation().GetSegment(one) for one in sorted(segmentIds)]
    return [None if one is None else (read_tag(one, TAG), read_tag(one, ACCEPTED_TAG), run_of(one)) for one in segments]
