"""What the effect shows in slice views: brush, strokes, preview and probabilities."""

from __future__ import annotations

import numpy as np
import qt
import slicer

from scribblesegment import ScribbleSegmentError
from scribblesegment.data.rasterize import (
    BOX_COLOR,
    NEGATIVE_COLOR,
    POSITIVE_COLOR,
    Color,
    corners_mm,
    finer,
    gestures_picture,
    mask_picture,
    paint_line,
    probability_picture,
)
from scribblesegment.mrml.geometry import array_of, length_scale, transformed, world_to_mm, world_to_xy
from scribblesegment.mrml.overlay import SliceOverlay, circle, rectangle

# Strokes are painted on a raster this much finer than the slice's pixels, so that their edges look smooth.
_SUPERSAMPLING = 2


class SliceViews:
    """Draws over all slice views while the effect is active.

    Attributes:
        lastUsed: The qMRMLSliceWidget that was drawn in, or moved to another slice, last; None before.
        preferredName: Name of the view that buttons act on before that, if it is shown.
    """

    def __init__(self, effect, *, preferredName: str = "Red") -> None:
        """Show nothing yet.

        Args:
            effect: The effect, with its options and its segmenter; `onShown` is called with target and plane of the
                active view whenever it is shown anew, with None where it shows no slice of the volume.
            preferredName: Name of the view that buttons act on before one is used.
        """
        self.preferredName = preferredName
        self._effect = effect
        self._scripted = effect.scriptedEffect
        self._segmenter = effect.segmenter
        self._options = effect.options
        self._overlays: dict = {}
        self._current = None  # raster, picture and number of points of the gesture being drawn
        self._currentIsDone = False
        # One refresh for all that happens in a turn of the event loop: a gesture alone causes half a dozen events.
        self._refreshTimer = qt.QTimer()
        self._refreshTimer.setSingleShot(True)
        self._refreshTimer.setInterval(0)
        self._refreshTimer.timeout.connect(self.refreshAll)
        self.lastUsed = None
        self._places: dict = {}
        self._moved: set = set()

    @property
    def activeView(self):
        """The slice view that buttons act on: the one used last, else a preferred one; None where there is none."""
        if self.lastUsed is not None and self.lastUsed.visible:
            return self.lastUsed
        widgets = [widget for widget in self._sliceWidgets() if widget.visible]
        preferred = (widget for widget in widgets if widget.mrmlSliceNode().GetLayoutName() == self.preferredName)
        return next(preferred, next(iter(widgets), None))

    @staticmethod
    def takeKeys(viewWidget) -> None:
        """Let keys go to a view that the mouse is over, unless the user is typing."""
        view, focused = viewWidget.sliceView(), slicer.app.focusWidget()
        typing = focused is not None and (
            any(focused.inherits(name) for name in ("QLineEdit", "QAbstractSpinBox", "QTextEdit", "QPlainTextEdit"))
            or (focused.inherits("QComboBox") and focused.editable)
        )
        if focused is None or not (view.isAncestorOf(focused) or typing):
            view.VTKWidget().setFocus()

    def showWaiting(self, waiting: bool) -> None:
        """Show at the cursor that an answer is under way."""
        shape = qt.Qt.BusyCursor if waiting else qt.Qt.CrossCursor
        for widget in self._sliceWidgets():
            widget.sliceView().setViewCursor(qt.QCursor(shape))

    def sliceNodes(self) -> list:
        """Give the vtkMRMLSliceNodes of all slice views."""
        return [widget.mrmlSliceNode() for widget in self._sliceWidgets()]

    # The brush --------------------------------------------------------------------------------------------------

    def brushDiameterMm(self, viewWidget) -> float:
        """Give the brush's diameter in a view, in world millimetres."""
        screenHeight = self._scripted.renderWindow(viewWidget).GetScreenSize()[1]
        return self._options.brushDiameterMm(self._mmPerPixel(viewWidget), screenHeight)

    def brushRadiusPixels(self, viewWidget) -> float:
        """Give the brush's radius in a view's pixels."""
        return self.brushDiameterMm(viewWidget) / 2 / self._mmPerPixel(viewWidget)

    def showBrush(self, viewWidget, xy, *, positive: bool) -> None:
        """Draw the brush's outline around the mouse."""
        overlay = self.overlayOf(viewWidget)
        if self._options.tool == "box":
            overlay.brush.hide()
        else:
            radius = self.brushRadiusPixels(viewWidget) if self._options.tool == "brush" else 2.0
            overlay.brush.show(circle(xy, max(radius, 1.0)), _colorOf(positive))
        self._render(viewWidget)

    def hideBrush(self, viewWidget) -> None:
        """Take the brush's outline away."""
        self.overlayOf(viewWidget).brush.hide()
        self._render(viewWidget)

    # The gesture being drawn ------------------------------------------------------------------------------------

    def showCurrent(self, viewWidget, recorder, xy, place) -> None:
        """Prepare the gesture that is being made, which began at a place of the segmenter; `showBrush` draws it."""
        self.lastUsed = viewWidget
        overlay = self.overlayOf(viewWidget)
        if recorder.tool == "brush":
            self._paintCurrent(overlay, viewWidget, recorder, *place)
        elif recorder.tool == "box":
            first = world_to_xy(viewWidget.mrmlSliceNode(), recorder.points[0])
            overlay.box.show(rectangle(tuple(first), xy), BOX_COLOR)
        elif recorder.tool == "lasso":
            line = world_to_xy(viewWidget.mrmlSliceNode(), np.array(recorder.points))
            overlay.box.show(line, _colorOf(recorder.positive))

    def finishCurrent(self) -> None:
        """Take the gesture that was being made away with the next refresh, which shows it among the others."""
        self._currentIsDone = True
        self.refreshSoon()

    def _hideCurrent(self) -> None:
        for overlay in self._overlays.values():
            overlay.current.hide()
            overlay.box.hide()
        self._current, self._currentIsDone = None, False

    def _paintCurrent(self, overlay, viewWidget, recorder, target, plane) -> None:
        toMm = world_to_mm(target.segmentation_node)
        points = transformed(toMm, np.array(recorder.points))
        if self._current is None or self._current[2] > len(points):
            raster = finer(plane, _SUPERSAMPLING)
            self._current = (raster, np.zeros((*raster.shape, 4), np.uint8), 0)
        raster, picture, done = self._current
        radiusMm = self.brushDiameterMm(viewWidget) / 2 * length_scale(toMm)
        color = _colorOf(recorder.positive)
        paint_line(picture, raster, [tuple(point) for point in points[max(done - 1, 0) :].tolist()], radiusMm, color)
        self._current = (raster, picture, len(points))
        overlay.current.set_picture(picture)
        self._lay(overlay.current, raster, viewWidget, toMm)

    # What is there ----------------------------------------------------------------------------------------------

    def follow(self, viewWidget) -> None:
        """Show a slice view anew that has changed; one that has gone to another slice alone is the one in use."""
        before, now = self._places.get(viewWidget), _placeOf(viewWidget)
        if before is not None and before != now:
            self._moved.add(viewWidget)
            self.refreshSoon()
        self._places[viewWidget] = now
        self.refresh(viewWidget)

    def refreshSoon(self) -> None:
        """Show the current state as soon as Slicer has nothing more urgent to do."""
        if not self._refreshTimer.isActive():
            self._refreshTimer.start()

    def refreshAll(self) -> None:
        """Show the current state in all slice views."""
        if self._currentIsDone:
            self._hideCurrent()
        if len(self._moved) == 1:  # not the crosshair, which moves all of them
            (self.lastUsed,) = self._moved
        self._moved.clear()
        for viewWidget in self._sliceWidgets():
            self._places[viewWidget] = _placeOf(viewWidget)
            self.refresh(viewWidget)
        if self.activeView is None:
            self._effect.onShown(None, None)
        self._options.showPreview(self._segmenter.preview is not None)

    def refresh(self, viewWidget) -> None:
        """Show the current state in one slice view."""
        overlay = self.overlayOf(viewWidget)
        self._raise(overlay, viewWidget)
        try:
            target, plane = self._segmenter.place(self._effect.editorNode, viewWidget.mrmlSliceNode())
            drawn = target.gestures.on(plane)
        except ScribbleSegmentError:
            # The view shows no slice of the volume, nothing is selected yet, or the strokes cannot be read; the status
            # area says so when drawing.
            for texture in (overlay.strokes, overlay.preview, overlay.probability):
                texture.hide()
            self._render(viewWidget)
            if viewWidget is self.activeView:
                self._options.showGestures(())
                self._effect.onShown(None, None)
            return
        toMm = world_to_mm(target.segmentation_node)
        self._showStrokes(overlay, viewWidget, drawn, toMm)
        self._showResult(overlay, viewWidget, target, plane, toMm)
        if viewWidget is self.activeView:
            self._options.showGestures(() if drawn is None else drawn.gestures)
            self._effect.onShown(target, plane)
        self._render(viewWidget)

    def _showStrokes(self, overlay, viewWidget, drawn, toMm) -> None:
        if drawn is None:
            overlay.strokes.hide()
            overlay.drawn_from.pop("strokes", None)
            return
        raster = finer(drawn.plane, _SUPERSAMPLING)
        if overlay.drawn_from.get("strokes") != drawn.gestures:
            overlay.drawn_from["strokes"] = drawn.gestures
            overlay.strokes.set_picture(gestures_picture(drawn.gestures, drawn.plane, supersampling=_SUPERSAMPLING))
        self._lay(overlay.strokes, raster, viewWidget, toMm)

    def _showResult(self, overlay, viewWidget, target, plane, toMm) -> None:
        preview = self._segmenter.preview
        if preview is not None and preview.is_for(target, plane):
            madeFrom = (preview, self._segmenter.options.clean_up, target.segment.GetColor())
            if overlay.drawn_from.get("preview") != madeFrom:
                overlay.drawn_from["preview"] = madeFrom
                overlay.preview.set_picture(mask_picture(self._segmenter.mask_of(preview), madeFrom[2]))
            self._lay(overlay.preview, preview.plane, viewWidget, toMm)
        else:
            overlay.preview.hide()
            overlay.drawn_from.pop("preview", None)
        result = self._segmenter.result_on(target, plane) if self._options.isOn("ShowProbability") else None
        if result is None:
            overlay.probability.hide()
            overlay.drawn_from.pop("probability", None)
            return
        if overlay.drawn_from.get("probability") is not result:
            overlay.drawn_from["probability"] = result
            overlay.probability.set_picture(probability_picture(result.logits))
        self._lay(overlay.probability, result.plane, viewWidget, toMm)

    def hideAll(self) -> None:
        """Show nothing, for a scene that is being closed."""
        self._refreshTimer.stop()
        for viewWidget, overlay in self._overlays.items():
            for actor in overlay.actors:
                actor.VisibilityOff()
            self._render(viewWidget)
        self._current = None

    def remove(self) -> None:
        """Take everything out of all views."""
        self._refreshTimer.stop()
        for viewWidget, overlay in self._overlays.items():
            for actor in overlay.actors:
                self._scripted.removeActor2D(viewWidget, actor)
            self._render(viewWidget)
        if self.lastUsed is not None:
            self.preferredName = self.lastUsed.mrmlSliceNode().GetLayoutName()
        self._overlays, self._places = {}, {}
        self._moved.clear()
        self._current = self.lastUsed = None

    # ------------------------------------------------------------------------------------------------------------

    def overlayOf(self, viewWidget) -> SliceOverlay:
        """Give what is drawn over a slice view, made when it is first asked for."""
        if viewWidget not in self._overlays:
            overlay = SliceOverlay()
            for actor in overlay.actors:
                self._scripted.addActor2D(viewWidget, actor)
            self._overlays[viewWidget] = overlay
        return self._overlays[viewWidget]

    def _raise(self, overlay, viewWidget) -> None:
        """Draw over segments that were added to the view later."""
        if self._scripted.renderer(viewWidget).GetViewProps().GetLastProp() is overlay.actors[-1]:
            return
        for actor in overlay.actors:
            self._scripted.removeActor2D(viewWidget, actor)
            self._scripted.addActor2D(viewWidget, actor)

    def _sliceWidgets(self) -> list:
        layoutManager = slicer.app.layoutManager()
        if layoutManager is None:  # Slicer runs without a window, or is about to quit
            return []
        widgets = [layoutManager.sliceWidget(name) for name in layoutManager.sliceViewNames()]
        return [widget for widget in widgets if self._scripted.segmentationDisplayableInView(widget.mrmlSliceNode())]

    @staticmethod
    def _lay(texture, raster, viewWidget, toMm) -> None:
        """Put a texture where its raster lies in a view."""
        toWorld = np.linalg.inv(toMm)
        texture.place(world_to_xy(viewWidget.mrmlSliceNode(), transformed(toWorld, corners_mm(raster))))

    @staticmethod
    def _mmPerPixel(viewWidget) -> float:
        xyToSlice = viewWidget.mrmlSliceNode().GetXYToSlice()
        return float(np.linalg.norm([xyToSlice.GetElement(row, 1) for row in range(3)]))

    def _render(self, viewWidget) -> None:
        self._scripted.scheduleRender(viewWidget)


def _colorOf(positive: bool) -> Color:
    return POSITIVE_COLOR if positive else NEGATIVE_COLOR


def _placeOf(viewWidget) -> bytes:
    return array_of(viewWidget.mrmlSliceNode().GetSliceToRAS()).tobytes()
