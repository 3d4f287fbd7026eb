"""The effect *Scribble Segment*: Slicer's events in, calls to the controller out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import qt
import slicer
import vtk
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from scribblesegment import ScribbleSegmentError
from scribblesegment.mrml.geometry import xy_to_world
from scribblesegment.mrml.propagation import PropagationHistory, VolumePropagation
from scribblesegment.mrml.recorder import Annotation, AnnotationRecorder
from scribblesegment.mrml.slice_segmenter import SliceSegmenter
from scribblesegment.mrml.source_image import SourceImages
from ScribbleSegmentLib.ContextLibrary import sharedContexts
from ScribbleSegmentLib.Inference import sharedInference
from ScribbleSegmentLib.SegmentEditorAccess import EFFECT_NAME

from .ContextSection import ContextControl, ContextPanel
from .Options import OptionsPanel, setDefaults
from .PropagationSection import PropagationControl, PropagationPanel
from .SliceViews import SliceViews


class VolumeTools:
    """From single slices to the rest of the volume, and to the next patient.

    Attributes:
        contextPanel: Widgets of the section *Context*.
        propagationPanel: Widgets of the section *Propagate*.
        context: What is behind the first; it is there while the options are.
        propagation: What is behind the second; None unless the effect is active.
    """

    def __init__(self, scriptedEffect, *, attempt, tell, startTimer) -> None:
        """Build the widgets.

        Args:
            scriptedEffect: The qSlicerSegmentEditorScriptedEffect.
            attempt: Called with a function that may raise a ScribbleSegmentError, to carry it out.
            tell: Called with a text for the status area, and `problem=True` if it is one.
            startTimer: Called when `poll` is to be called until nothing is left to do.
        """
        self._effect = scriptedEffect
        self._attempt = attempt
        self._tell = tell
        self._history = PropagationHistory()
        self._controller = None
        self._views = None
        self._engine = None
        self.propagation = None
        self.contextPanel = ContextPanel(
            onAction=self.act,
            onTask=lambda name: self._do(lambda: self.context.chooseTask(name)),
            onOrder=lambda order: self._do(lambda: self.context.reorder(order)),
            onAddAccepted=lambda wanted: self.context.setAddAccepted(wanted),
        )
        self.propagationPanel = PropagationPanel(
            onAction=self.act,
            onAccept=self.accept,
            onGoTo=lambda segmentId, index: self._do(lambda: self.propagation.goTo(segmentId, index)),
            onAllSegments=lambda wanted: self._do(lambda: self.propagation.setAllSegments(wanted)),
        )
        self.context = ContextControl(
            scriptedEffect,
            self.contextPanel,
            onProblem=lambda problem: tell(problem, problem=True),
            onChanged=startTimer,
        )
        self.contextPanel.ui.contextSection.contentsCollapsed.connect(self._onCollapsed)

    @staticmethod
    def setDefaults(scriptedEffect) -> None:
        """Give the parameters their first values."""
        ContextControl.setDefaults(scriptedEffect)
        PropagationControl.setDefaults(scriptedEffect)

    @property
    def widgets(self) -> list:
        """What to add to the options."""
        return [self.contextPanel.widget, self.propagationPanel.widget]

    def activate(self, controller, views, images) -> None:
        """The effect becomes active."""
        inference = sharedInference()
        sharedContexts().retry()
        self._controller, self._views = controller, views
        self._engine = VolumePropagation(
            inference,
            save_state=self._effect.saveStateForUndo,
            context_of=self.context.contextOf,
            images=images,
            history=self._history,
        )
        self.propagation = PropagationControl(
            self._effect, self.propagationPanel, controller, self._engine, views, tell=self._tell
        )

    def deactivate(self, endThread: Callable[[], object]) -> None:
        """The effect is left; everything that is done is kept.

        Args:
            endThread: Ends the inference thread after the slice it is at.
        """
        if self.propagation is not None:
            self.propagation.leave()
            self._controller.slice_viewed()
        endThread()
        if self.propagation is not None:
            self._engine.poll()  # so that it can be gone on from
            self.context.cleanup()
        self.propagation = self._controller = self._views = self._engine = None

    def act(self, action: str) -> None:
        """Carry out a button."""
        actions = {
            "addSlice": lambda: self._onShownSlice(lambda target, plane: self.context.addSlice(target, plane)),
            "remove": self.context.removeSelected,
            "clear": self.context.askAndClear,
            "earlier": lambda: self.context.move(-1),
            "later": lambda: self.context.move(1),
            "importFile": lambda: self.context.askAndImport(folder=False),
            "importFolder": lambda: self.context.askAndImport(folder=True),
            "export": self.context.askAndExport,
            "predictSlice": self._predictSlice,
            "propagate": lambda: self.propagation.start(),
            "cancelPropagation": lambda: self.propagation.interrupt(),
            "alignView": lambda: self.propagation.alignView(),
        }
        self._do(actions[action])

    def accept(self, wanted: bool = True) -> None:
        """Accept the shown slice, or take that back."""

        def change() -> None:
            self.propagation.interrupt()
            self.propagation.accept(wanted)

        self._do(change)

    def interrupt(self) -> None:
        """End a propagation and keep what is done, because something else is about to edit the segmentation."""
        if self.propagation is not None:
            self.propagation.interrupt()

    @property
    def busy(self) -> bool:
        """Whether `poll` must be called again."""
        return self.context.busy or (self.propagation is not None and self.propagation.busy)

    def poll(self, waitSeconds: float) -> bool:
        """Take in what was made and read; waits where nobody else would. Returns whether a segment changed."""
        self.context.poll(waitSeconds)
        return self.propagation is not None and self.propagation.poll()

    def showSlice(self, target=None, plane=None) -> None:
        """The user looks at a slice now, or at none."""
        if self.propagation is None:
            return
        self._controller.slice_viewed(target, plane)
        self.propagation.showSlice(target, plane)
        self.context.refresh()

    def reset(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        if self.propagation is not None:
            self.propagation.reset()
        self._history.clear()

    def _predictSlice(self) -> None:
        self.propagation.interrupt()
        editorNode = self._effect.parameterSetNode()
        viewWidget = self._views.activeView
        if viewWidget is not None:
            self._controller.predict_in_context(editorNode, viewWidget.mrmlSliceNode())

    def _onShownSlice(self, use) -> None:
        viewWidget = self._views.activeView
        if viewWidget is not None:
            use(*self._controller.place(self._effect.parameterSetNode(), viewWidget.mrmlSliceNode()))

    def _do(self, action) -> None:
        if self.propagation is not None:
            self._attempt(action)

    def _onCollapsed(self, collapsed: bool) -> None:
        if not collapsed:
            self._do(self.context.onOpened)


class SceneObserver(VTKObservationMixin):
    """Observes the editor's selections, its segmentation, and the scene, until it is stopped."""

    def __init__(self, editorNode, *, onChanged: Callable[[], None], onClosing: Callable[[], None]) -> None:
        """Start observing.

        Args:
            editorNode: The vtkMRMLSegmentEditorNode.
            onChanged: Called after the selected segment, its prompts or voxels have changed.
            onClosing: Called before the scene is closed.
        """
        VTKObservationMixin.__init__(self)
        self._onChanged = onChanged
        self._onClosing = onClosing
        self._segmentationNode = None
        self._editorNode = editorNode
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self._closing)
        if editorNode is not None:
            self.addObserver(editorNode, vtk.vtkCommand.ModifiedEvent, self._selectionChanged)
            self._follow(editorNode.GetSegmentationNode())

    def stop(self) -> None:
        """Observe nothing any more."""
        self.removeObservers()

    def _follow(self, segmentationNode) -> None:
        if segmentationNode is self._segmentationNode:
            return
        if self._segmentationNode is not None:
            self.removeObservers(self._changed)
        self._segmentationNode = segmentationNode
        if segmentationNode is None:
            return
        for event in (
            slicer.vtkSegmentation.SegmentModified,
            slicer.vtkSegmentation.SourceRepresentationModified,
            slicer.vtkSegmentation.SegmentAdded,
            slicer.vtkSegmentation.SegmentRemoved,
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
        ):
            self.addObserver(segmentationNode, event, self._changed)

    def _selectionChanged(self, caller, event) -> None:
        self._follow(self._editorNode.GetSegmentationNode())
        self._onChanged()

    def _changed(self, caller, event) -> None:
        self._onChanged()

    def _closing(self, caller, event) -> None:
        self._onClosing()


# Slicer's idle event loop keeps Python's global lock, so that the thread that predicts would stand still. Each tick
# therefore waits on it, without the lock; the window stays responsive between ticks.
_LENT_SECONDS = 0.006

_INTERVAL_MS = 2


class ResultTimer:
    """A timer that runs as long as its slot says so."""

    def __init__(self, inference, onTick: Callable[[], bool]) -> None:
        """Make a timer that stands still.

        Args:
            inference: What is waited for.
            onTick: Called on the main thread after each wait; returns whether to go on.
        """
        self._inference = inference
        self._onTick = onTick
        self._timer = qt.QTimer()
        self._timer.setInterval(_INTERVAL_MS)
        self._timer.timeout.connect(self.tick)

    @property
    def running(self) -> bool:
        """Whether results are looked for."""
        return bool(self._timer.isActive())

    def start(self) -> None:
        """Look for results until there are none to come."""
        if not self._timer.isActive():
            self._timer.start()

    def stop(self) -> None:
        """Look no more, whatever is to come."""
        self._timer.stop()

    def tick(self, seconds: float = _LENT_SECONDS) -> None:
        """Look for results once.

        Args:
            seconds: How long to wait for one.
        """
        self._inference.wait(seconds)
        if not self._onTick():
            self._timer.stop()


_ICON_FILE = Path(__file__).resolve().parent.parent / "Resources" / "Icons" / "SegmentEditorScribbleSegment.svg"

_BRUSH_STEP = 1.2

_HEAD_START_SECONDS = 0.02

_WAIT_SECONDS = 0.006


class SegmentEditorScribbleSegmentEffect(AbstractScriptedSegmentEditorEffect):
    """Segments the shown slice from strokes, clicks and boxes, with a neural network.

    Slicer makes one for the list of effects and a clone for every Segment Editor. Only while it is active does it have
    actors in views, observers, or a running timer.
    """

    sourceFile = Path(__file__).as_posix()

    def __init__(self, scriptedEffect):
        scriptedEffect.name = EFFECT_NAME  # not translated: modules find effects by name
        scriptedEffect.title = _("Scribble Segment")
        scriptedEffect.perSegment = True
        scriptedEffect.requireSegments = True
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.options = None
        self.volume = None
        self.controller = None
        self.recorder = AnnotationRecorder()
        self.views = None
        self.timer = None
        self.observer = None
        self._statusIsProblem = False
        self._inferenceKind = ""
        self._viewName = "Red"

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
            _("<b>Left button, drag:</b> stroke on the structure; with <b>Ctrl</b> on the background."),
            _("<b>Left button, press:</b> click prompt. Box tool: drag a box around the structure."),
            _("<b>X:</b> swap structure and background."),
            _("<b>Shift + wheel:</b> size of the brush."),
            _("<b>Enter:</b> accept a preview, or the shown slice as it is."),
            _("Each gesture is one undo step. Prompts are saved with the segmentation."),
            _("<b>Propagate</b> carries accepted slices on through the volume; <b>Context</b> keeps them as examples."),
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
        self.options = OptionsPanel(self.scriptedEffect, onResultOption=self.onResultOption, onAction=self.onAction)
        self.volume = VolumeTools(
            self.scriptedEffect, attempt=self.attempt, tell=self.showStatus, startTimer=self.startTimer
        )
        for section in self.volume.widgets:
            self.options.addSection(section)
        self.scriptedEffect.addOptionsWidget(self.options.widget)

    def setMRMLDefaults(self):
        """Give the parameters their first values."""
        setDefaults(self.scriptedEffect)
        VolumeTools.setDefaults(self.scriptedEffect)

    def createCursor(self, widget):
        """Show a plain cross; the brush is drawn around it."""
        return qt.QCursor(qt.Qt.CrossCursor)

    def activate(self):
        """Get ready: load the network in the background, show what was drawn."""
        inference, images = sharedInference(), SourceImages()
        self.controller = SliceSegmenter(
            inference,
            save_state=self.scriptedEffect.saveStateForUndo,
            images=images,
            options=self.options.controllerOptions,
            context_of=self.volume.context.contextOf,
            on_finished=self.volume.context.onFinished,
        )
        self.views = SliceViews(self.scriptedEffect, self.controller, self.options, onActiveSlice=self.volume.showSlice)
        self.volume.activate(self.controller, self.views, images)
        self.timer = ResultTimer(inference, self.onTimer)
        self.observer = SceneObserver(
            self.scriptedEffect.parameterSetNode(), onChanged=self.onSceneChanged, onClosing=self.onSceneClosing
        )
        inference.prepare()
        self.timer.start()
        self.refresh()

    def deactivate(self):
        """Leave nothing behind; what was drawn stays with its segment."""
        self.recorder.cancel()
        if self.controller is not None:
            # Not waited for: a thread that is importing PyTorch takes seconds to end, and does so by itself.
            self.volume.deactivate(lambda: sharedInference().rest(timeout_s=0.1))
        if self.timer is not None:
            self.timer.stop()
        if self.observer is not None:
            self.observer.stop()
        if self.views is not None:
            self.views.remove()
            self._viewName = self.views.preferredName
        if self.controller is not None:
            self.controller.reset()
        self.controller = self.views = self.timer = self.observer = None

    def cleanup(self):
        """Let go of everything when the editor is destroyed, also while active."""
        self.deactivate()

    def updateGUIFromMRML(self):
        """Show the parameters, and use them."""
        if self.options is None:
            return
        # Again: a loaded scene may have brought an editor node that lacks them.
        self.setMRMLDefaults()
        self.options.update()
        if self.controller is not None:
            self.controller.options = self.options.controllerOptions
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
        if self.controller is None or viewWidget.className() != "qMRMLSliceWidget":
            return False
        handler = {
            vtk.vtkCommand.LeftButtonPressEvent: self.onPress,
            # The second press of a double click; it would enlarge the view.
            vtk.vtkCommand.LeftButtonDoubleClickEvent: self.onPress,
            vtk.vtkCommand.MouseMoveEvent: self.onMove,
            vtk.vtkCommand.LeftButtonReleaseEvent: self.onRelease,
            vtk.vtkCommand.MouseWheelForwardEvent: self.onWheelForward,
            vtk.vtkCommand.MouseWheelBackwardEvent: self.onWheelBackward,
            vtk.vtkCommand.KeyPressEvent: self.onKey,
            vtk.vtkCommand.LeaveEvent: self.onLeave,
        }.get(eventId)
        return False if handler is None else handler(callerInteractor, viewWidget)

    # Mouse and keys ---------------------------------------------------------------------------------------------

    def onPress(self, interactor, viewWidget) -> bool:
        """Begin a gesture."""
        if interactor.GetShiftKey() or interactor.GetAltKey() or self.recorder.active:
            return False
        try:
            self.controller.place(self.editorNode, self.sliceNode(viewWidget))
        except ScribbleSegmentError as error:
            self.showStatus(str(error), problem=True)
            return True
        if self._statusIsProblem:
            self.showStatus("")
        self.volume.interrupt()
        positive = self.options.positive != bool(interactor.GetControlKey())
        xy = interactor.GetEventPosition()
        self.recorder.press(xy, self.world(xy, viewWidget), positive=positive, box=self.options.box)
        self.views.showCurrent(viewWidget, self.recorder, xy)
        return True

    def onMove(self, interactor, viewWidget) -> bool:
        """Continue a gesture, and let the brush follow the mouse."""
        xy = interactor.GetEventPosition()
        if self.recorder.active and self.recorder.move(xy, self.world(xy, viewWidget)):
            self.views.showCurrent(viewWidget, self.recorder, xy)
        self.views.showBrush(viewWidget, xy, positive=self.options.positive != bool(interactor.GetControlKey()))
        return self.recorder.active

    def onRelease(self, interactor, viewWidget) -> bool:
        """Finish a gesture."""
        if not self.recorder.active:
            return False
        xy = interactor.GetEventPosition()
        recorded = self.recorder.release(
            xy, self.world(xy, viewWidget), brush_radius_pixels=self.views.brushRadiusPixels(viewWidget)
        )
        self.attempt(lambda: self.record(recorded, viewWidget))
        self.views.finishCurrent()
        # A quick network answers before anything is drawn, and the view changes once instead of twice.
        self.timer.tick(_HEAD_START_SECONDS)
        return True

    def onWheelForward(self, interactor, viewWidget) -> bool:
        """Make the brush larger, with Shift."""
        return self.scaleBrush(interactor, viewWidget, _BRUSH_STEP)

    def onWheelBackward(self, interactor, viewWidget) -> bool:
        """Make the brush smaller, with Shift."""
        return self.scaleBrush(interactor, viewWidget, 1.0 / _BRUSH_STEP)

    def onKey(self, interactor, viewWidget) -> bool:
        """Swap polarity or accept."""
        key = interactor.GetKeySym()
        if key in ("x", "X"):
            self.options.swapPolarity()
            return True
        if key in ("Return", "KP_Enter"):
            self.views.lastUsed = viewWidget
            self.volume.accept()
            return True
        return False

    def onLeave(self, interactor, viewWidget) -> bool:
        """Hide the brush outside of views."""
        self.views.hideBrush(viewWidget)
        return False

    def scaleBrush(self, interactor, viewWidget, factor: float) -> bool:
        """Change the brush's size when Shift is down."""
        if not interactor.GetShiftKey():
            return False
        self.options.scaleBrush(factor)
        self.views.showBrush(viewWidget, interactor.GetEventPosition(), positive=self.options.positive)
        return True

    # What happens then ------------------------------------------------------------------------------------------

    def record(self, recorded: Annotation, viewWidget):
        """Hand a finished gesture over."""
        sliceNode = self.sliceNode(viewWidget)
        if recorded.kind == "box":
            self.controller.drag_box(self.editorNode, sliceNode, *recorded.points)
        elif recorded.kind == "click":
            self.controller.click(self.editorNode, sliceNode, recorded.points[0], positive=recorded.positive)
        else:
            radiusMm = self.views.brushDiameterMm(viewWidget) / 2
            self.controller.paint(self.editorNode, sliceNode, recorded.points, radiusMm, positive=recorded.positive)

    def onAction(self, action: str):
        """Carry out a button of the options."""
        actions = {
            "accept": lambda: self.controller.accept(),
            "predict": lambda: self.onShownSlice(self.controller.predict),
            "remove": lambda: self.onShownSlice(self.controller.remove_gesture, self.options.selectedPrompt),
            "clearSlice": lambda: self.onShownSlice(self.controller.clear_slice),
            "clearSegment": lambda: self.controller.clear_segment(self.editorNode),
        }
        if self.controller is not None:
            self.volume.interrupt()
            self.attempt(actions[action])

    def onShownSlice(self, method, *arguments):
        """Call the controller for the slice view that was used last."""
        viewWidget = self.views.activeView
        if viewWidget is not None:
            method(self.editorNode, self.sliceNode(viewWidget), *arguments)

    def onResultOption(self, finished: bool):
        """Make a changed threshold or clean-up count."""
        if self.controller is None:
            return
        self.volume.interrupt()
        self.controller.options = self.options.controllerOptions
        viewWidget = self.views.activeView
        if viewWidget is not None:
            self.attempt(
                lambda: self.controller.reapply(self.editorNode, self.sliceNode(viewWidget), finished=finished)
            )

    def onTimer(self) -> bool:
        """Take in results. Returns whether more are on their way."""
        state = sharedInference().state
        if state.kind == "ready" and self._inferenceKind != "ready":
            # What was drawn while there was no network is answered now.
            self.controller.retry()
            self.showStatus(state.message)
            self.volume.context.refresh()
        self._inferenceKind = state.kind
        update = self.controller.poll()
        if update.problem:
            self.showStatus(update.problem, problem=True)
        elif update.changed:
            self.showStatus(self.hiddenNote())
        elif state.kind in ("failed", "loading"):
            self.showStatus(state.message, problem=state.kind == "failed")
        elif not self._statusIsProblem and state.message:
            self.showStatus(state.message)
        changed = self.volume.poll(0.0 if sharedInference().busy else _WAIT_SECONDS)
        if update.changed or changed:
            self.views.refreshSoon()
        return self.controller.busy or state.kind == "loading" or self.volume.busy

    def hiddenNote(self) -> str:
        """Say that a result cannot be seen, where Slicer's other effects would ask in a dialog."""
        displayNode = self.editorNode.GetSegmentationNode().GetDisplayNode()
        if displayNode is None or displayNode.GetSegmentVisibility(self.editorNode.GetSelectedSegmentID()):
            return ""
        return _("The selected segment is hidden. Press its eye in the list of segments to see the result.")

    def onSceneChanged(self):
        """Follow undo, redo, and edits by others."""
        if self.controller is not None:
            self.views.refreshSoon()

    def onSceneClosing(self):
        """Drop what belongs to a scene that goes."""
        self.recorder.cancel()
        if self.controller is not None:
            self.volume.reset()
            self.controller.reset()
            self.views.hideAll()

    def refresh(self):
        """Read the editor's selections anew."""
        if self.controller is None:
            return

        def getReady():
            note = self.controller.target(self.editorNode).source.note
            if note:
                self.showStatus(note)

        self.attempt(getReady)

    def attempt(self, action):
        """Do something that may not be possible; then the status area says why, and nothing is lost."""
        try:
            action()
        except ScribbleSegmentError as error:
            self.showStatus(str(error), problem=True)
            logging.debug("Scribble Segment: %s", error)
        self.startTimer()
        self.views.refreshSoon()

    def startTimer(self):
        """Look for results until there are none to come."""
        if self.timer is not None:
            self.timer.start()

    def showStatus(self, text: str, *, problem: bool = False):
        """Say something in the status area."""
        self._statusIsProblem = problem
        self.options.showStatus(text, problem=problem)

    @property
    def editorNode(self):
        """The vtkMRMLSegmentEditorNode of the editor."""
        return self.scriptedEffect.parameterSetNode()

    @staticmethod
    def sliceNode(viewWidget):
        """Give the vtkMRMLSliceNode of a slice view."""
        return viewWidget.mrmlSliceNode()

    def world(self, xy, viewWidget):
        """Give the world position under a pixel of a view, as three floats."""
        return tuple(xy_to_world(self.sliceNode(viewWidget), xy).tolist())
