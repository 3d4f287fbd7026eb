"""The effect's options: what the widgets show, and the parameters of the Segment Editor node behind them."""

from __future__ import annotations

from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from scribblesegment.data.drawing import Box, Click, Gesture, Lasso
from scribblesegment.data.masks import CleanUp
from scribblesegment.data.rasterize import NEGATIVE_COLOR, POSITIVE_COLOR
from scribblesegment.mrml.recorder import Tool
from scribblesegment.mrml.slice_segmenter import SegmenterOptions

_UI_FILE = Path(__file__).resolve().parent.parent / "Resources" / "UI" / "SegmentEditorScribbleSegment.ui"

TOOLS: tuple[Tool, ...] = ("brush", "click", "box", "lasso")
_PROTECT = "all", "visible", "none"

# Parameters and what they are at first. The brush is this effect's own: strokes that mark are thinner than Paint's.
_DEFAULTS = {
    "Positive": 1,
    "Tool": 0,
    "BrushRelativeDiameter": 1.0,
    "BrushAbsoluteDiameter": 2.0,
    "BrushIsRelative": 1,
    "Automatic": 1,
    "Protect": 0,
    "LearnFromOthers": 0,
    "Together": 0,
    "Threshold": 0.5,
    "ShowProbability": 0,
    "KeepTouched": 1,
    "FillHoles": 0,
    "SmallestIslandMm2": 0.0,
    "AddAccepted": 1,
    "Follow": 0,
    "OtherViews": 1,
}
_CHECK_BOXES = {
    "Automatic": "automaticCheckBox",
    "LearnFromOthers": "learnCheckBox",
    "Together": "togetherCheckBox",
    "ShowProbability": "probabilityCheckBox",
    "KeepTouched": "touchedCheckBox",
    "FillHoles": "holesCheckBox",
}
# A change of these makes another mask of the same prediction.
_RESULT_PARAMETERS = ("Threshold", "KeepTouched", "FillHoles", "SmallestIslandMm2")

_LONGEST_LINE = 60  # characters

_BRUSH_RANGE = {True: (0.1, 25.0), False: (0.1, 100.0)}  # percent, millimetres


class Options:
    """Widgets and parameters of the effect.

    Attributes:
        widget: The QWidget to add to the effect's options frame.
        ui: The named widgets of the .ui file.
    """

    def __init__(self, effect) -> None:
        """Build the widgets.

        Args:
            effect: The effect, which is told of changed results (`onResultOption`) and pressed buttons (`onAction`).
        """
        self._scripted = effect.scriptedEffect
        self._onResultOption = effect.onResultOption
        self._mm = _("mm")
        self.widget = slicer.util.loadUI(str(_UI_FILE))
        self.ui = ui = slicer.util.childWidgetVariables(self.widget)
        for name, widgetName in _CHECK_BOXES.items():
            getattr(ui, widgetName).toggled.connect(lambda checked, name=name: self._set(name, int(checked)))
        ui.positiveButton.toggled.connect(lambda checked: self._set("Positive", int(checked)))
        for button, color in ((ui.positiveButton, POSITIVE_COLOR), (ui.negativeButton, NEGATIVE_COLOR)):
            red, green, blue = (round(255 * part) for part in color)
            _showChecked(button, f"rgb({red}, {green}, {blue})", "black")
        self._toolButtons = [getattr(ui, f"{tool}Button") for tool in TOOLS]
        for number, button in enumerate(self._toolButtons):
            _showChecked(button, "palette(highlight)", "palette(highlighted-text)")
            button.clicked.connect(lambda checked=False, number=number: self._set("Tool", number))
        ui.othersComboBox.connect("activated(int)", lambda number: self._set("Protect", number))
        # Without tracking, the slider tells apart a value on the way from the one it is left at.
        ui.thresholdSlider.tracking = False
        ui.thresholdSlider.valueIsChanging.connect(lambda value: self._set("Threshold", value, finished=False))
        ui.thresholdSlider.valueChanged.connect(lambda value: self._set("Threshold", value))
        ui.islandSpinBox.valueChanged.connect(lambda value: self._set("SmallestIslandMm2", value))
        ui.brushUnitButton.toggled.connect(lambda absolute: self._set("BrushIsRelative", int(not absolute)))
        ui.brushDiameterSlider.valueChanged.connect(lambda value: self._set(self._brushParameter, value))
        for name in ("apply", "predict", "remove", "clearSlice", "clearSegment"):
            getattr(ui, f"{name}Button").clicked.connect(lambda checked=False, name=name: effect.onAction(name))
        ui.setUpButton.clicked.connect(lambda checked=False: slicer.util.selectModule("ScribbleSegment"))
        ui.statusLabel.linkActivated.connect(effect.onLink)
        for hidden in (ui.busyBar, ui.setUpButton):
            hidden.visible = False

    # Parameters -------------------------------------------------------------------------------------------------

    def setDefaults(self) -> None:
        """Give every parameter that the Segment Editor node does not have yet its first value."""
        for name, value in _DEFAULTS.items():
            self._scripted.setParameterDefault(name, value)

    def isOn(self, name: str) -> bool:
        """Whether a parameter is set."""
        return bool(self._scripted.integerParameter(name))

    @property
    def tool(self) -> Tool:
        """What is drawn with."""
        return TOOLS[min(max(self._scripted.integerParameter("Tool"), 0), len(TOOLS) - 1)]

    @property
    def segmenterOptions(self) -> SegmenterOptions:
        """The options as the segmenter takes them, within the limits of the widgets whatever a scene file says."""
        slider, number = self.ui.thresholdSlider, self._scripted.doubleParameter
        return SegmenterOptions(
            automatic=self.isOn("Automatic"),
            protect=_PROTECT[min(max(self._scripted.integerParameter("Protect"), 0), 2)],
            learn_from_others=self.isOn("LearnFromOthers"),
            together=self.isOn("Together"),
            clean_up=CleanUp(
                threshold=min(max(number("Threshold"), slider.minimum), slider.maximum),
                fill_holes=self.isOn("FillHoles"),
                smallest_island_mm2=max(number("SmallestIslandMm2"), 0.0),
                keep_touched=self.isOn("KeepTouched"),
            ),
        )

    def swapPolarity(self) -> None:
        """Change between including and excluding."""
        self._set("Positive", int(not self.isOn("Positive")))

    def includeFirst(self) -> None:
        """Include what is drawn next."""
        self._set("Positive", 1)

    def chooseTool(self, tool: Tool) -> None:
        """Draw with another tool from now on."""
        self._set("Tool", TOOLS.index(tool))

    def brushDiameterMm(self, mmPerPixel: float, screenHeight: int) -> float:
        """Give the brush's diameter in a view.

        Args:
            mmPerPixel: Size of the view's pixels.
            screenHeight: Of the screen, in pixels; what a relative size is relative to.
        """
        size = self._scripted.doubleParameter(self._brushParameter)
        return screenHeight * size / 100.0 * mmPerPixel if self.isOn("BrushIsRelative") else size

    def scaleBrush(self, factor: float) -> None:
        """Make the brush larger or smaller."""
        low, high = _BRUSH_RANGE[self.isOn("BrushIsRelative")]
        self._set(
            self._brushParameter, min(max(self._scripted.doubleParameter(self._brushParameter) * factor, low), high)
        )

    # Widgets ----------------------------------------------------------------------------------------------------

    def update(self) -> None:
        """Show the parameters."""
        ui, scripted = self.ui, self._scripted
        for name, widgetName in _CHECK_BOXES.items():
            show(getattr(ui, widgetName), "checked", self.isOn(name))
        chosen = [ui.positiveButton if self.isOn("Positive") else ui.negativeButton, getattr(ui, f"{self.tool}Button")]
        for button in chosen:  # checking one unchecks the others
            show(button, "checked", True)
        for button in (ui.positiveButton, ui.negativeButton):
            button.enabled = self.tool != "box"  # a box always holds the structure
        ui.applyButton.visible = not self.isOn("Automatic")
        show(ui.othersComboBox, "currentIndex", scripted.integerParameter("Protect"))
        show(ui.thresholdSlider, "value", scripted.doubleParameter("Threshold"))
        show(ui.islandSpinBox, "value", scripted.doubleParameter("SmallestIslandMm2"))
        relative = self.isOn("BrushIsRelative")
        show(ui.brushUnitButton, "checked", not relative)
        ui.brushUnitButton.text = "%" if relative else self._mm
        slider = ui.brushDiameterSlider
        wasBlocked = slider.blockSignals(True)
        slider.minimum, slider.maximum = _BRUSH_RANGE[relative]
        slider.value = scripted.doubleParameter(self._brushParameter)
        slider.blockSignals(wasBlocked)

    def showStatus(self, text: str, *, problem: bool = False) -> None:
        """Say something in the status line; what is long takes several lines."""
        label = self.ui.statusLabel
        if label.text != text:
            label.text = label.toolTip = text
        label.wordWrap = problem or len(text) > _LONGEST_LINE
        label.setStyleSheet("color: #d9534f" if problem else "")

    def showBusy(self, busy: bool) -> None:
        """Show that an answer is under way."""
        self.ui.busyBar.visible = busy

    def showPreview(self, waiting: bool) -> None:
        """Offer to write a preview, or not."""
        self.ui.applyButton.enabled = waiting

    def showGestures(self, gestures: tuple[Gesture, ...]) -> None:
        """List what was drawn on the slice."""
        ui = self.ui
        names = [f"{number}. {_describe(gesture)}" for number, gesture in enumerate(gestures, start=1)]
        if [ui.promptsList.item(row).text() for row in range(ui.promptsList.count)] != names:
            ui.promptsList.clear()
            ui.promptsList.addItems(names)
        for button in (ui.predictButton, ui.removeButton, ui.clearSliceButton):
            button.enabled = bool(gestures)

    @property
    def selectedGesture(self) -> int:
        """Row of the selected stroke; -1, the newest, when none is selected."""
        return int(self.ui.promptsList.currentRow)

    @property
    def _brushParameter(self) -> str:
        return "BrushRelativeDiameter" if self.isOn("BrushIsRelative") else "BrushAbsoluteDiameter"

    def _set(self, name: str, value, *, finished: bool = True) -> None:
        self._scripted.setParameter(name, value)
        if name in _RESULT_PARAMETERS:
            self._onResultOption(finished)


def connectButtons(effect, *actions) -> None:
    """Let buttons carry out what they stand for, given as pairs; where that is not possible, the effect says why."""
    for button, action in actions:
        button.clicked.connect(lambda checked=False, action=action: effect.attempt(action))


def show(widget, attribute: str, value) -> None:
    """Set a property without telling anyone, where it is not set already."""
    if getattr(widget, attribute) == value:
        return
    wasBlocked = widget.blockSignals(True)
    setattr(widget, attribute, value)
    widget.blockSignals(wasBlocked)


def _showChecked(button, background: str, text: str) -> None:
    """Colour a button while it is checked, which Slicer's dark style does not show otherwise."""
    button.setStyleSheet(f"QToolButton:checked {{ background-color: {background}; color: {text}; }}")


def _describe(gesture: Gesture) -> str:
    if isinstance(gesture, Box):
        return _("Box")
    kind = _("Click") if isinstance(gesture, Click) else _("Lasso") if isinstance(gesture, Lasso) else _("Stroke")
    return f"{kind}, {_('included') if gesture.positive else _('excluded')}"


def iconOf(picture) -> qt.QIcon:
    """An icon of uint8 (H, W, 3) pixels."""
    height, width = picture.shape[:2]
    pixmap = qt.QPixmap()
    pixmap.loadFromData(qt.QByteArray(f"P6 {width} {height} 255\n".encode("ascii") + picture.tobytes()))
    return qt.QIcon(pixmap)
