"""The effect's options: what the widgets show, and the parameters of the Segment Editor node behind them."""

from __future__ import annotations

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from scribblesegment.data.drawing import Box, Click, Gesture
from scribblesegment.data.masks import CleanUp
from scribblesegment.mrml.slice_segmenter import SegmenterOptions

_UI_FILE = Path(__file__).resolve().parent.parent / "Resources" / "UI" / "SegmentEditorScribbleSegment.ui"

# Parameters of this effect and what they are at first. The brush's size is a common parameter, shared with Paint.
_DEFAULTS = {
    "Positive": 1,
    "Box": 0,
    "Automatic": 1,
    "ProtectOthers": 1,
    "LearnFromOthers": 0,
    "Threshold": 0.5,
    "ShowProbability": 0,
    "KeepTouched": 1,
    "FillHoles": 0,
    "SmallestIslandMm2": 0.0,
}
_COMMON_DEFAULTS = {
    "BrushMinimumAbsoluteDiameter": 0.01,
    "BrushMaximumAbsoluteDiameter": 100.0,
    "BrushAbsoluteDiameter": 5.0,
    "BrushRelativeDiameter": 3.0,
    "BrushDiameterIsRelative": 1,
}

_CHECK_BOXES = {
    "Automatic": "automaticCheckBox",
    "ProtectOthers": "protectCheckBox",
    "LearnFromOthers": "learnCheckBox",
    "ShowProbability": "probabilityCheckBox",
    "KeepTouched": "touchedCheckBox",
    "FillHoles": "holesCheckBox",
}
# A change of these makes another mask of the same prediction.
_RESULT_PARAMETERS = ("Threshold", "KeepTouched", "FillHoles", "SmallestIslandMm2")


def setDefaults(scriptedEffect) -> None:
    """Give every parameter that the Segment Editor node does not have yet its first value."""
    for name, value in _DEFAULTS.items():
        scriptedEffect.setParameterDefault(name, value)
    for name, value in _COMMON_DEFAULTS.items():
        scriptedEffect.setCommonParameterDefault(name, value)


class OptionsPanel:
    """Widgets and parameters of the effect.

    Attributes:
        widget: The QWidget to add to the effect's options frame.
        ui: The named widgets of the .ui file.
    """

    def __init__(self, scriptedEffect, *, onResultOption, onAction):
        """Build the widgets.

        Args:
            scriptedEffect: The qSlicerSegmentEditorScriptedEffect that keeps the parameters.
            onResultOption: Called with whether a change is finished, when results have to be made anew.
            onAction: Called with the name of a pressed button: "accept", "predict", "remove", "clearSlice" or
                "clearSegment".
        """
        self._effect = scriptedEffect
        self._onResultOption = onResultOption
        self.widget = slicer.util.loadUI(str(_UI_FILE))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        ui.brushDiameterSlider.setMRMLScene(slicer.mrmlScene)
        for name, widgetName in _CHECK_BOXES.items():
            getattr(ui, widgetName).toggled.connect(lambda checked, name=name: self._set(name, int(checked)))
        ui.positiveButton.toggled.connect(lambda checked: self._set("Positive", int(checked)))
        ui.boxButton.toggled.connect(lambda checked: self._set("Box", int(checked)))
        # Without tracking, the slider tells apart a value on the way from the one it is left at.
        ui.thresholdSlider.tracking = False
        ui.thresholdSlider.valueIsChanging.connect(lambda value: self._set("Threshold", value, finished=False))
        ui.thresholdSlider.valueChanged.connect(lambda value: self._set("Threshold", value))
        ui.islandSpinBox.valueChanged.connect(lambda value: self._set("SmallestIslandMm2", value))
        ui.brushUnitButton.toggled.connect(
            lambda absolute: self._setBrush("BrushDiameterIsRelative", int(not absolute))
        )
        ui.brushDiameterSlider.valueChanged.connect(self._onBrushDiameter)
        for button, action in (
            (ui.acceptButton, "accept"),
            (ui.predictButton, "predict"),
            (ui.removeButton, "remove"),
            (ui.clearSliceButton, "clearSlice"),
            (ui.clearSegmentButton, "clearSegment"),
        ):
            button.clicked.connect(lambda checked=False, action=action: onAction(action))

    # Parameters -------------------------------------------------------------------------------------------------

    @property
    def positive(self) -> bool:
        """Whether the brush marks the structure."""
        return bool(self._effect.integerParameter("Positive"))

    @property
    def box(self) -> bool:
        """Whether boxes are dragged instead of strokes."""
        return bool(self._effect.integerParameter("Box"))

    @property
    def showProbability(self) -> bool:
        """Whether probabilities are shown."""
        return bool(self._effect.integerParameter("ShowProbability"))

    @property
    def controllerOptions(self) -> SegmenterOptions:
        """The options as the controller takes them, within the limits of the widgets whatever a scene file says."""
        slider = self.ui.thresholdSlider
        return SegmenterOptions(
            automatic=bool(self._effect.integerParameter("Automatic")),
            protect_visible=bool(self._effect.integerParameter("ProtectOthers")),
            learn_from_others=bool(self._effect.integerParameter("LearnFromOthers")),
            clean_up=CleanUp(
                threshold=min(max(self._effect.doubleParameter("Threshold"), slider.minimum), slider.maximum),
                fill_holes=bool(self._effect.integerParameter("FillHoles")),
                smallest_island_mm2=max(self._effect.doubleParameter("SmallestIslandMm2"), 0.0),
                keep_touched=bool(self._effect.integerParameter("KeepTouched")),
            ),
        )

    def addSection(self, section):
        """Add a widget above the status area."""
        layout = self.widget.layout()
        layout.insertWidget(layout.indexOf(self.ui.statusLabel), section)

    def swapPolarity(self):
        """Change between marking structure and background."""
        self._effect.setParameter("Positive", int(not self.positive))

    def brushDiameterMm(self, mmPerPixel: float, screenHeight: int) -> float:
        """Give the brush's diameter in a view.

        Args:
            mmPerPixel: Size of the view's pixels.
            screenHeight: Of the screen, in pixels; what a relative size is relative to.
        """
        if self._effect.integerParameter("BrushDiameterIsRelative"):
            return screenHeight * self._effect.doubleParameter("BrushRelativeDiameter") / 100.0 * mmPerPixel
        return self._effect.doubleParameter("BrushAbsoluteDiameter")

    def scaleBrush(self, factor: float):
        """Make the brush larger or smaller."""
        relative = bool(self._effect.integerParameter("BrushDiameterIsRelative"))
        name = "BrushRelativeDiameter" if relative else "BrushAbsoluteDiameter"
        low, high = self._brushRange(relative)
        self._setBrush(name, min(max(self._effect.doubleParameter(name) * factor, low), high))

    # Widgets ----------------------------------------------------------------------------------------------------

    def update(self):
        """Show the parameters."""
        ui, effect = self.ui, self._effect
        for name, widgetName in _CHECK_BOXES.items():
            _show(getattr(ui, widgetName), "checked", bool(effect.integerParameter(name)))
        for on, off, isOn in (
            (ui.positiveButton, ui.negativeButton, self.positive),
            (ui.boxButton, ui.brushButton, self.box),
        ):
            # Both silent: checking one of the two unchecks the other.
            wasBlocked = on.blockSignals(True)
            _show(off, "checked", not isOn)
            _show(on, "checked", isOn)
            on.blockSignals(wasBlocked)
        _show(ui.thresholdSlider, "value", effect.doubleParameter("Threshold"))
        _show(ui.islandSpinBox, "value", effect.doubleParameter("SmallestIslandMm2"))
        relative = bool(effect.integerParameter("BrushDiameterIsRelative"))
        _show(ui.brushUnitButton, "checked", not relative)
        slider = ui.brushDiameterSlider
        wasBlocked = slider.blockSignals(True)
        slider.minimum, slider.maximum = self._brushRange(relative)
        slider.suffix = "%" if relative else _(" mm")
        slider.decimals = 0 if relative else 1
        slider.value = effect.doubleParameter("BrushRelativeDiameter" if relative else "BrushAbsoluteDiameter")
        slider.blockSignals(wasBlocked)

    def showStatus(self, text: str, *, problem: bool = False):
        """Say something in the effect's status area."""
        self.ui.statusLabel.text = text
        self.ui.statusLabel.setStyleSheet("color: #c62828" if problem else "")

    def showPreview(self, waiting: bool):
        """Offer to accept a preview, or not."""
        self.ui.acceptButton.enabled = waiting

    def showPrompts(self, gestures: tuple[Gesture, ...]):
        """List what was drawn on the slice."""
        names = [f"{number}. {_describe(gesture)}" for number, gesture in enumerate(gestures, start=1)]
        promptsList = self.ui.promptsList
        if [promptsList.item(row).text() for row in range(promptsList.count)] == names:
            return
        promptsList.clear()
        promptsList.addItems(names)

    @property
    def selectedPrompt(self) -> int:
        """Row of the selected prompt; -1, the newest, when none is selected."""
        return int(self.ui.promptsList.currentRow)

    def _brushRange(self, relative: bool) -> tuple[float, float]:
        if relative:
            return 1.0, 25.0
        return (
            self._effect.doubleParameter("BrushMinimumAbsoluteDiameter"),
            self._effect.doubleParameter("BrushMaximumAbsoluteDiameter"),
        )

    def _set(self, name: str, value, *, finished: bool = True):
        self._effect.setParameter(name, value)
        if name in _RESULT_PARAMETERS:
            self._onResultOption(finished)

    def _setBrush(self, name: str, value):
        self._effect.setCommonParameter(name, value)

    def _onBrushDiameter(self, value: float):
        relative = bool(self._effect.integerParameter("BrushDiameterIsRelative"))
        self._setBrush("BrushRelativeDiameter" if relative else "BrushAbsoluteDiameter", value)


def _show(widget, attribute: str, value):
    """Set a property without telling anyone."""
    wasBlocked = widget.blockSignals(True)
    setattr(widget, attribute, value)
    widget.blockSignals(wasBlocked)


def _describe(gesture: Gesture) -> str:
    if isinstance(gesture, Box):
        return _("Box")
    if isinstance(gesture, Click):
        return _("Click on the structure") if gesture.positive else _("Click on the background")
    return _("Stroke on the structure") if gesture.positive else _("Stroke on the background")
