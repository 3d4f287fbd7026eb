"""What the effect draws over a slice view: textures that lie on a slice plane, and outlines in view pixels.

VTK only; the effect adds the actors to its views and removes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from vtkmodules.util.numpy_support import numpy_to_vtk
from vtkmodules.vtkCommonCore import VTK_UNSIGNED_CHAR, vtkFloatArray, vtkPoints
from vtkmodules.vtkCommonDataModel import vtkCellArray, vtkImageData, vtkPolyData
from vtkmodules.vtkRenderingCore import vtkActor2D, vtkPolyDataMapper2D, vtkTexture, vtkTexturedActor2D


class PlaneTexture:
    """An RGBA picture that is shown as a parallelogram in a slice view, to which its `actor` is added."""

    def __init__(self, *, smooth: bool = True) -> None:
        self._points = vtkPoints()
        self._points.SetNumberOfPoints(4)
        coordinates = vtkFloatArray()
        coordinates.SetNumberOfComponents(2)
        for corner in ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)):
            coordinates.InsertNextTuple(corner)
        quad = vtkCellArray()
        quad.InsertNextCell(4, (0, 1, 2, 3))
        self._quad = vtkPolyData()
        self._quad.SetPoints(self._points)
        self._quad.SetPolys(quad)
        self._quad.GetPointData().SetTCoords(coordinates)
        mapper = vtkPolyDataMapper2D()
        mapper.SetInputData(self._quad)
        self._texture = vtkTexture()
        self._texture.SetInterpolate(smooth)
        # Otherwise what lies at one edge shines through at the opposite one.
        self._texture.SetWrap(vtkTexture.ClampToEdge)
        self.actor = vtkTexturedActor2D()
        self.actor.SetMapper(mapper)
        self.actor.SetTexture(self._texture)
        self.actor.VisibilityOff()
        self.actor.PickableOff()

    def set_picture(self, rgba: NDArray[np.uint8]) -> None:
        """Take a picture, uint8 (H, W, 4), of which a copy is made."""
        height, width = rgba.shape[:2]
        image = vtkImageData()
        image.SetDimensions(width, height, 1)
        scalars = numpy_to_vtk(rgba.reshape(-1, 4), deep=True, array_type=VTK_UNSIGNED_CHAR)
        image.GetPointData().SetScalars(scalars)
        self._texture.SetInputData(image)

    def place(self, corners: ArrayLike) -> None:
        """Put the picture into the view and show it.

        Args:
            corners: (4, 2) view pixels of the picture's outer corners: first row and column, first row and last column,
                last row and column, last row and first column.
        """
        for index, (x, y) in enumerate(np.asarray(corners, float).tolist()):
            self._points.SetPoint(index, x, y, 0.0)
        self._points.Modified()
        self._quad.Modified()
        self.actor.VisibilityOn()

    def hide(self) -> None:
        """Show nothing."""
        self.actor.VisibilityOff()


class Outline:
    """A closed line in view pixels, drawn by its `actor`."""

    def __init__(self, *, width: float = 1.5) -> None:
        self._points = vtkPoints()
        self._lines = vtkPolyData()
        self._lines.SetPoints(self._points)
        mapper = vtkPolyDataMapper2D()
        mapper.SetInputData(self._lines)
        self.actor = vtkActor2D()
        self.actor.SetMapper(mapper)
        self.actor.GetProperty().SetLineWidth(width)
        self.actor.VisibilityOff()
        self.actor.PickableOff()

    def show(self, points: ArrayLike, color: tuple[float, float, float]) -> None:
        """Draw the line through points (N, 2), in a color of red, green and blue in [0, 1]."""
        corners = np.asarray(points, float)
        self._points.SetNumberOfPoints(len(corners))
        for index, (x, y) in enumerate(corners.tolist()):
            self._points.SetPoint(index, x, y, 0.0)
        line = vtkCellArray()
        line.InsertNextCell(len(corners) + 1, (*range(len(corners)), 0))
        self._lines.SetLines(line)
        self._points.Modified()
        self._lines.Modified()
        self.actor.GetProperty().SetColor(*color)
        self.actor.VisibilityOn()

    def hide(self) -> None:
        """Show nothing."""
        self.actor.VisibilityOff()


def circle(center: tuple[float, float], radius: float, count: int = 48) -> NDArray[np.float64]:
    """Give the points (count, 2) of a circle, in the units of `center` and `radius`."""
    angles = np.linspace(0.0, 2.0 * np.pi, count, endpoint=False)
    return np.asarray(center, float) + radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def rectangle(first: tuple[float, float], opposite: tuple[float, float]) -> NDArray[np.float64]:
    """Give the corners (4, 2) of a rectangle along the axes between two opposite ones."""
    (x0, y0), (x1, y1) = first, opposite
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


class SliceOverlay:
    """All that is drawn over one slice view, from bottom to top."""

    def __init__(self) -> None:
        self.probability = PlaneTexture()
        self.preview = PlaneTexture(smooth=False)
        self.strokes = PlaneTexture()
        self.current = PlaneTexture()
        self.box = Outline(width=2.0)
        self.brush = Outline()
        # What each texture was made from, so that it is made again only when that has changed.
        self.drawn_from: dict[str, Any] = {}

    @property
    def actors(self) -> tuple[vtkActor2D, ...]:
        """The actors to add to the view, in drawing order."""
        parts = (self.probability, self.preview, self.strokes, self.current, self.box, self.brush)
        return tuple(part.actor for part in parts)
