"""The sections *Context* and *Propagate* of the effect's options, and what is behind them."""

from __future__ import annotations

from collections.abc import Callable

from scribblesegment.mrml.propagation_history import PropagationHistory
from scribblesegment.mrml.volume_propagation import VolumePropagation
from ScribbleSegmentLib.SharedContexts import sharedContexts
from ScribbleSegmentLib.SharedInference import sharedInference

from .ContextControl import ContextControl
from .ContextPanel import ContextPanel
from .PropagationControl import PropagationControl
from .PropagationPanel import PropagationPanel


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
            self._controller.acceptance.looked_at()
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
        self._controller.acceptance.looked_at(target, plane)
        self.propagation.showSlice(target, plane)
        self.context.refresh()

    def forget(self) -> None:
        """Let go of everything that belongs to a scene that closes."""
        if self.propagation is not None:
            self.propagation.forget()
        self._history.forget()

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
