"""Structures to propagate, and what becomes of them, for tests of propagation."""

from __future__ import annotations

import numpy as np

from scribblesegment.data.volume import Volume


def ball(shape=(18, 24, 30), radius=7.5):
    grid = np.indices(shape).astype(np.float64)
    centre = (np.array(shape) - 1) / 2
    return ((grid - centre[:, None, None, None]) ** 2).sum(axis=0) < radius**2


def tube(shape=(20, 24, 30), radius=4.0):
    """A tube along K whose centre wanders."""
    k, j, i = np.indices(shape)
    return (j - 8 - 0.4 * k) ** 2 + (i - 15 + 5 * np.sin(k / 4)) ** 2 < radius**2


def volume_of(structure, matrix=None, noise=0.0):
    array = 100.0 * structure + np.random.default_rng(0).normal(0, 1, structure.shape) * noise
    return Volume(array, np.eye(4) if matrix is None else matrix)


def cut(structure, axis, *indices):
    slices = np.moveaxis(structure, axis, 0)
    return {index: np.ascontiguousarray(slices[index]) for index in indices}


def assembled(result, shape):
    """All masks of a result, accepted ones included, as an array (K, J, I)."""
    found = np.zeros(shape, bool)
    planes = np.moveaxis(found, result.axis, 0)
    for index, mask in result.accepted.items():
        planes[index] = mask
    for index, piece in result.slices.items():
        planes[index] = piece.mask
    return found


def dice(first, second):
    return 2 * (first & second).sum() / (first.sum() + second.sum())
