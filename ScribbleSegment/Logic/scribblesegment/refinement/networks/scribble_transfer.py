"""Bringing corrections from the pixels of an image to the cells of a network's grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from scribblesegment.label_scribbles import UNMARKED, LabelScribbles

IntArray = NDArray[np.int64]
DoubleArray = NDArray[np.float64]

# Cells; positions closer than this to a border count as on it, so that rounding errors decide nothing.
_TIE = 1e-6


def scaling(scales: ArrayLike, offsets: ArrayLike) -> DoubleArray:
    """Build the matrix of ``cell = scale * pixel + offset`` for each axis, (n + 1, n + 1), for homogeneous indices."""
    factors = np.asarray(scales, np.float64)
    matrix = np.diag([*factors, 1.0])
    matrix[:-1, -1] = offsets
    return matrix


def transfer_scribbles(
    scribbles: LabelScribbles, matrix: DoubleArray, shape: Sequence[int], *, slack: float = 0.0
) -> LabelScribbles:
    """Mark the cells of a grid that the marked pixels of an image lie in.

    A cell belongs to the pixels whose centres it holds and, where the grid is finer than the image, to the pixel that
    holds its own centre. Where these ask for different labels, most of them decide, and between equally many the label
    that has fewer marks in the image. A stroke that would lose all of its cells to others keeps the one it covers most
    of, and the smaller stroke has precedence: no correction vanishes because the grid is coarse.

    Args:
        scribbles: On the image.
        matrix: (n + 1, n + 1) from homogeneous indices of the image to those of the grid; centres are whole numbers.
        shape: Of the grid.
        slack: Pixels whose centres lie so little outside of the grid, in cells, still belong to its outermost cells.

    Returns:
        Scribbles on the grid. Marks on what it does not cover, which the network never sees, are left out.
    """
    labels = np.full(tuple(shape), UNMARKED, np.int16)
    pixels = np.argwhere(scribbles.marked)
    sides = np.asarray(labels.shape)
    exact = pixels @ matrix[:-1, :-1].T + matrix[:-1, -1]
    border = 0.5 + slack + _TIE
    near = ((exact > -border) & (exact < sides - 1 + border)).all(axis=1)
    pixels, exact = pixels[near], exact[near]
    if not len(pixels):
        return LabelScribbles(labels)
    cells = np.clip(_nearest(exact), 0, sides - 1)
    owners, voted = _votes(pixels, cells, matrix, sides)
    asked = scribbles.labels[tuple(pixels.T)].astype(np.int64)
    flat = labels.reshape(-1)
    _elect(flat, voted, asked[owners], scribbles)
    own = np.ravel_multi_index(tuple(cells.T), labels.shape)
    if (flat[own] != asked).any():
        _rescue(flat, own, asked, _strokes(scribbles, pixels))
    return LabelScribbles(labels)


def _nearest(positions: DoubleArray) -> IntArray:
    return np.floor(positions + 0.5 + _TIE).astype(np.int64)


def _votes(pixels: IntArray, cells: IntArray, matrix: DoubleArray, sides: IntArray) -> tuple[IntArray, IntArray]:
    """List which pixel speaks for which cell: numbers within `pixels`, and flat cell indices."""
    everyone = np.arange(len(pixels))
    owners, voted = [everyone], [np.ravel_multi_index(tuple(cells.T), tuple(sides))]
    # How far, in cells, a pixel reaches from its centre.
    reach = np.ceil(np.abs(matrix[:-1, :-1]).sum(axis=1) / 2 - 0.5 - _TIE).clip(0).astype(np.int64)
    inverse = np.linalg.inv(matrix)
    for step in itertools.product(*(range(-far, far + 1) for far in reach.tolist())):
        if not any(step):
            continue
        others = cells + np.asarray(step)
        back = _nearest(others @ inverse[:-1, :-1].T + inverse[:-1, -1])
        own = (back == pixels).all(axis=1) & (others >= 0).all(axis=1) & (others < sides).all(axis=1)
        owners.append(everyone[own])
        voted.append(np.ravel_multi_index(tuple(others[own].T), tuple(sides)))
    return np.concatenate(owners), np.concatenate(voted)


def _elect(flat: NDArray[np.int16], voted: IntArray, asked: IntArray, scribbles: LabelScribbles) -> None:
    """Give every cell the label that most of its pixels ask for."""
    values = np.asarray(scribbles.values())
    marks = np.array([np.count_nonzero(scribbles.labels == value) for value in values])
    numbers = np.searchsorted(values, asked)
    pairs, counts = np.unique(voted * len(values) + numbers, return_counts=True)
    cell, number = np.divmod(pairs, len(values))
    # The last of equal cells wins the assignment: few votes first, and among equals the label with many marks.
    order = np.lexsort((number, -marks[number], counts, cell))
    flat[cell[order]] = values[number[order]]


def _strokes(scribbles: LabelScribbles, pixels: IntArray) -> IntArray:
    """Number the connected pieces of each label, from 1: for each of the marked pixels (n, ndim), the number of its."""
    first, last = pixels.min(axis=0), pixels.max(axis=0)
    marked = scribbles.labels[tuple(slice(start, stop + 1) for start, stop in zip(first, last, strict=True))]
    pieces = np.zeros(marked.shape, np.int64)
    everywhere = np.ones((3,) * marked.ndim)
    for value in scribbles.values():
        found, _ = ndimage.label(marked == value, everywhere)
        pieces[found > 0] = found[found > 0] + pieces.max()
    return np.asarray(pieces[tuple((pixels - first).T)])


def _rescue(flat: NDArray[np.int16], cells: IntArray, asked: IntArray, strokes: IntArray) -> None:
    """Give strokes that lost every cell the one they cover most of; small strokes last, so that they keep it."""
    sizes = np.bincount(strokes)
    kept = np.bincount(strokes[flat[cells] == asked], minlength=len(sizes)) > 0
    lost = np.flatnonzero((sizes > 0) & ~kept)
    for stroke in lost[np.argsort(-sizes[lost], kind="stable")]:
        members = strokes == stroke
        covered, counts = np.unique(cells[members], return_counts=True)
        flat[covered[counts.argmax()]] = asked[members][0]
