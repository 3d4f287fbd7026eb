"""The embedded network in NumPy, for where there is no torch: the same parameters, the same results.

`scribblesegment.models.ridge_unet` says what is computed and why; functions here have the names of those there, and a
test compares them one by one. One image at a time; maps have their channels last, (H, W, C), so that convolutions are
matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

IMAGE, BOX, POSITIVE, NEGATIVE, PREVIOUS = range(5)  # as in scribblesegment.models.encoding, which needs torch

# As in scribblesegment.models.ridge_unet, which needs torch; the test compares them.
LOCAL_WINDOWS, TOP_HATS, LOCAL_GAIN = (7, 21), (3, 9), 3.0
HEADS, PATCH, LISTENERS = 2, 4, 4
STEP_COST, REACHES, SWEEPS, FAR, SEED = 0.002, (0.5, 0.5, 0.06), 3, 1e4, 0.2
BOX_WEIGHT = 0.02
# As in scribblesegment.models.cues.
BINS, SUREST, RIDGE, NEWTON_STEPS, PRIOR_WEIGHT = 32, 0.98, 0.02, 6, 1e-3


class Features(NamedTuple):
    """What the encoder says of an image."""

    levels: tuple[FloatArray, ...]  # projected for the decoder, at 1/2 to 1/32
    embedding: FloatArray  # (H/2, W/2, d + 1)
    sparse: FloatArray  # (H/4, W/4, d + 1)
    everywhere: FloatArray  # (d + 1, d + 1)
    filtered: FloatArray  # (H/2, W/2, 6)
    keys: FloatArray  # (heads, H/8 W/8, key)
    summary: FloatArray  # (key,)
    coarse: FloatArray  # (H/16, W/16, C)


class Entry(NamedTuple):
    """A context entry."""

    moments: FloatArray  # (2, d + 1, d + 1)
    keys: FloatArray  # (heads, patches, key)
    values: FloatArray  # (patches, PATCH ** 2)
    summary: FloatArray  # (key,)
    densities: FloatArray  # (2, 6, bins)
    topics: FloatArray  # (listeners, H/16 W/16, key)
    told: FloatArray  # (listeners, H/16 W/16, heard)


class Evidence(NamedTuple):
    """What a context says of a target."""

    moments: FloatArray  # (2, d + 1, d + 1)
    carried: FloatArray  # (H/2, W/2, heads)
    densities: FloatArray  # (2, 6, bins)
    level: float
    heard: FloatArray  # (H/16, W/16, C)


# As much as stays in the processor's cache.
_ROWS = 16  # of an image that are convolved at a time
_QUERIES = 128  # places of an image that attend at a time


class RidgeUNetNumpy:
    """Runs a `RidgeUNet` whose batch norms are folded."""

    def __init__(self, parameters: Mapping[str, NDArray[Any]]) -> None:
        """Take the parameters of the exported network, by name."""
        self._kernels: dict[str, tuple[int, FloatArray]] = {}  # side, and (side, side * inputs, outputs)
        self._other = {}
        for name, value in parameters.items():
            array = np.asarray(value, np.float32)
            if array.ndim == 4:
                outputs, inputs, side, _ = array.shape
                kernel = array.transpose(2, 3, 1, 0).reshape(side, side * inputs, outputs)
                self._kernels[name.removesuffix(".weight")] = side, np.ascontiguousarray(kernel)
            else:
                self._other[name] = array
        self._levels = 1 + max(int(name.split(".")[1]) for name in self._kernels if name.startswith("strides."))

    def encode(self, image: FloatArray) -> Features:
        """Encode an image (H, W) in [0, 1]; sides divisible by 32."""
        local = _local(image)
        x = self._norm_free("stem", local, relu=True)
        levels = []
        for index in range(self._levels + 1):
            x = self._block(f"blocks.{index}", self._downsampled(f"strides.{index - 1}", x) if index else x)
            levels.append(x)
        summed = self._pointwise(f"laterals.{self._levels}", levels[-1])
        for index in reversed(range(self._levels)):
            summed = _add_doubled(self._pointwise(f"laterals.{index}", levels[index]), summed)
        embedding = self._pointwise("embed", np.maximum(summed, 0.0))
        one = np.ones((*embedding.shape[:2], 1), np.float32)
        embedding = np.concatenate([embedding, np.float32(LOCAL_GAIN) * local, one], axis=2)
        sparse = np.ascontiguousarray(embedding[::2, ::2])
        rows = sparse.reshape(-1, sparse.shape[2])
        described = _add_doubled(
            self._pointwise("key_laterals.0", levels[2]), self._pointwise("key_laterals.1", levels[3])
        )
        keys = _unit_keys(described, HEADS)
        mean = levels[3].mean(axis=(0, 1))
        summary = _unit(self._other["summarise.weight"] @ mean + self._other["summarise.bias"])
        fused = tuple(self._pointwise(f"fuse.{index}", level) for index, level in enumerate(levels))
        everywhere = rows.T @ rows / np.float32(len(rows))
        return Features(fused, embedding, sparse, everywhere, _filters(local), keys, summary, levels[3])

    def entry(self, features: Features, mask: FloatArray) -> Entry:
        """Make a context entry of an image's features and its mask (H, W) in [0, 1]."""
        inside = _halved(mask)
        near = np.sqrt(np.clip(_local_mean(inside, 15), 0.0, 1.0))
        weights = np.stack([inside, (1.0 - inside) * (0.2 + near)])
        moments = _moments(features.sparse, weights[:, ::2, ::2]) * np.float32(4 / inside.size)
        height, width = (side // PATCH for side in inside.shape)
        signed = np.float32(2.0) * inside - np.float32(1.0)
        values = signed.reshape(height, PATCH, width, PATCH).transpose(0, 2, 1, 3).reshape(height * width, PATCH**2)
        quarters = _unshuffled(_halved(_halved(signed))[None])
        said = np.maximum(self._pointwise("tell", np.concatenate([features.coarse, quarters], axis=2)), 0.0)
        return Entry(
            moments,
            features.keys,
            values,
            features.summary,
            np.stack([_densities(*_bins(features.filtered), one.ravel()) for one in weights]),
            _unit_keys(self._pointwise("ask", features.coarse), LISTENERS),
            _by_head(self._pointwise("tell_again", said), LISTENERS),
        )

    def evidence(self, features: Features, entries: Sequence[Entry], *, most: int = 0) -> Evidence:
        """Compute what context entries, at least one, say of an image; see `RidgeUNet.evidence`."""
        likeness = np.exp(self._other["entry_scale"]) * np.stack([one.summary for one in entries]) @ features.summary
        shares = np.exp(likeness - likeness.max())
        shares = shares / shares.sum()
        moments = np.tensordot(shares, np.stack([one.moments for one in entries]), 1)
        densities = np.tensordot(shares, np.stack([one.densities for one in entries]), 1)
        covered = int(np.clip(moments[0, -1, -1] * features.sparse[..., 0].size, 1, features.sparse[..., 0].size - 1))
        scores = features.sparse @ self._solve(_mean(moments[0]), _mean(moments[1]), 2)
        level = -np.partition(-scores.ravel(), covered)[covered]
        chosen = np.argsort(-likeness, kind="stable")[: most or None]
        height, width = (side // PATCH for side in features.embedding.shape[:2])
        taken = _attend(
            np.exp(self._other["key_scale"])[:, None, None] * features.keys,
            np.stack([entries[n].keys for n in chosen], axis=1),
            np.stack([np.broadcast_to(entries[n].values, (HEADS, *entries[n].values.shape)) for n in chosen], axis=1),
            np.exp(self._other["preferences"]),
            _places(height, width),
            likeness[chosen],
        )
        carried = taken.reshape(HEADS, height, width, PATCH, PATCH).transpose(1, 3, 2, 4, 0)
        rows, columns, _ = features.coarse.shape
        heard = _attend(
            np.exp(self._other["topic_scale"])[:, None, None]
            * _unit_keys(self._pointwise("ask", features.coarse), LISTENERS),
            np.stack([one.topics for one in entries], axis=1),
            np.stack([one.told for one in entries], axis=1),
            np.exp(self._other["nearness"]),
            _places(rows, columns),
            likeness,
        )
        return Evidence(
            moments,
            carried.reshape(height * PATCH, width * PATCH, HEADS),
            densities,
            float(level),
            heard.transpose(1, 0, 2).reshape(rows, columns, -1),
        )

    def decode(
        self, features: Features, prompts: FloatArray, evidence: Evidence | None = None
    ) -> tuple[FloatArray, float]:
        """Predict logits (H, W), and the logit of the structure being in the image at all; see `RidgeUNet.decode`."""
        halved = np.stack([_halved(channel) for channel in prompts])
        previous = prompts[PREVIOUS]
        has_previous = bool(previous.any())
        scores, valid = self._classify(features, halved, has_previous, evidence)
        best = scores[..., 3] if valid[3] else scores[..., 0]
        paths = measure_paths(halved, 1.0 / (1.0 + np.exp(-3.0 * best)))
        height, width = halved.shape[1:]
        clamped = np.clip(scores, -3.0, 3.0)
        flags = np.array([valid[0], has_previous, evidence is not None], np.float32)
        seen = np.concatenate([prompts[:PREVIOUS], np.tanh(0.25 * previous)[None]])
        x = np.concatenate(
            [
                _unshuffled(seen),
                clamped,
                paths,
                np.zeros((height, width, HEADS), np.float32) if evidence is None else evidence.carried,
                np.broadcast_to(flags, (height, width, len(flags))),
                _compare(features.filtered, halved),
                self._exampled(features, scores, evidence),
            ],
            axis=2,
            dtype=np.float32,
        )
        x = self._norm_free("enter", x, relu=False)
        skips: list[FloatArray] = []
        for index, level in enumerate(features.levels):
            if index > 0:
                x = self._downsampled(f"downs.{index - 1}", x)
            if index == 3 and evidence is not None:
                x = x + self._pointwise("hear", evidence.heard)
            x = self._block(f"mixes.{index}", np.maximum(x + level, 0.0))
            skips.append(x)
        carried = np.zeros(HEADS) if evidence is None else evidence.carried.max(axis=(0, 1))
        pooled = np.concatenate([x.mean(axis=(0, 1)), x.max(axis=(0, 1)), carried, clamped[..., 2:].max(axis=(0, 1))])
        presence = float(self._other["appears.weight"][0] @ pooled + self._other["appears.bias"][0])
        for index in reversed(range(len(skips) - 1)):
            x = np.maximum(_add_doubled(skips[index].copy(), self._pointwise(f"narrow.{index}", x)), 0.0)
            x = self._block(f"ups.{index}", x)
        four = self._pointwise("leave", x) + (clamped @ self._other["score_gain"])[..., None]
        logits = four.reshape(height, width, 2, 2).transpose(0, 2, 1, 3).reshape(2 * height, 2 * width)
        return np.ascontiguousarray(logits, np.float32), presence

    def _classify(
        self, features: Features, halved: FloatArray, has_previous: bool, evidence: Evidence | None
    ) -> tuple[FloatArray, tuple[bool, ...]]:
        """Scores (h, w, 4), and which are valid."""
        everywhere = features.everywhere
        strokes = np.stack(
            [
                _moments(features.embedding[marked][None], halved[channel][marked][None, None])[0]
                for channel in (POSITIVE, NEGATIVE)
                for marked in (halved[channel] > 0.0,)
            ]
        )
        box, before = halved[BOX, ::2, ::2], 1.0 / (1.0 + np.exp(-halved[PREVIOUS, ::2, ::2]))
        inner = _moments(features.sparse, np.stack([box, before]))
        total = everywhere * np.float32(box.size)
        outer = np.stack([total * np.float32(box.max()) - inner[0], total - inner[1]])
        labelled = strokes + np.float32(4.0 * BOX_WEIGHT) * np.stack([inner[0], outer[0]])
        background, by_previous, by_strokes = np.exp(self._other["log_prior"])
        inside, outside = (_mean(one) for one in labelled)
        outside = outside + background * everywhere
        use = by_previous * has_previous
        context_in, context_out = (
            (np.zeros_like(inside), np.zeros_like(inside)) if evidence is None else map(_mean, evidence.moments)
        )
        pairs = [
            (inside, outside),
            (inside + use * _mean(inner[1]), outside + use * _mean(outer[1])),
            (context_in, context_out),
            (context_in + by_strokes * inside, context_out + by_strokes * outside),
        ]
        has_inside = bool(labelled[0, -1, -1] > 1e-6)
        has_example = evidence is not None and bool(evidence.moments[0, -1, -1] > 1e-6)
        valid = has_inside, has_inside or has_previous, has_example, has_example or has_inside
        scores = np.zeros((*features.embedding.shape[:2], len(pairs)), np.float32)
        for index, (first, second) in enumerate(pairs):
            if valid[index]:
                scores[..., index] = features.embedding @ self._solve(first, second, index)
        return scores, valid

    def _solve(self, inside: FloatArray, outside: FloatArray, which: int) -> FloatArray:
        penalty = np.ones(len(inside), np.float32)
        penalty[-1] = 1e-2
        matrix = inside + outside + np.diag(penalty * np.exp(self._other["log_ridge"][which]))
        return np.asarray(np.linalg.solve(matrix, inside[:, -1] - outside[:, -1]), np.float32)

    def _exampled(self, features: Features, scores: FloatArray, evidence: Evidence | None) -> FloatArray:
        """How pixels look beside the context's masks, and the score beside the masks' usual area."""
        height, width, count = features.filtered.shape
        if evidence is None:
            return np.zeros((height, width, count + 1), np.float32)
        alike = _read(_ratios(*evidence.densities), *_bins(features.filtered))
        beside = np.clip(scores[..., 2:3] - np.float32(evidence.level), -3.0, 3.0)
        return np.concatenate([alike.reshape(height, width, count), beside], axis=2)

    # Layers.

    def _pointwise(self, name: str, x: FloatArray) -> FloatArray:
        _, kernel = self._kernels[name]
        result = x.reshape(-1, x.shape[2]) @ kernel[0]
        result += self._other[f"{name}.bias"]
        return result.reshape(*x.shape[:2], -1)

    def _downsampled(self, name: str, x: FloatArray) -> FloatArray:
        """Convolve with 2 x 2 pixels, every second."""
        height, width, channels = x.shape
        _, kernel = self._kernels[name]
        gathered = x.reshape(height // 2, 2, width // 2, 2 * channels).transpose(0, 2, 1, 3)
        result = gathered.reshape(-1, 4 * channels) @ kernel.reshape(4 * channels, -1)
        result += self._other[f"{name}.bias"]
        return result.reshape(height // 2, width // 2, -1)

    def _norm_free(self, name: str, x: FloatArray, *, relu: bool) -> FloatArray:
        """A convolution whose batch norm is folded, with ReLU."""
        side, kernel = self._kernels[f"{name}.0"]
        result = self._pointwise(f"{name}.0", x) if side == 1 else _convolved(x, kernel, self._other[f"{name}.0.bias"])
        return np.maximum(result, 0.0, out=result) if relu else result

    def _block(self, name: str, x: FloatArray) -> FloatArray:
        y = x + self._norm_free(f"{name}.second", self._norm_free(f"{name}.first", x, relu=True), relu=False)
        return np.maximum(y, 0.0, out=y)


def measure_paths(halved: FloatArray, score: FloatArray) -> FloatArray:
    """Measure shortest paths to the prompts (h, w, 9); see `ridge_unet.measure_paths`."""
    _, height, width = halved.shape
    box, positive, negative = halved[BOX], halved[POSITIVE], halved[NEGATIVE]
    outside = np.maximum(box.max() - box, 0.0)
    negative = np.maximum(negative, np.where(positive > 0.0, 0.0, outside))
    seeds = np.stack([positive, negative]) > SEED
    seeds &= ~seeds[::-1]
    terrains = np.stack([halved[IMAGE], score]).astype(np.float32)
    distances = np.where(seeds, np.float32(0.0), np.float32(FAR))[None].repeat(len(REACHES), axis=0)  # (T, 2, h, w)
    distances = np.ascontiguousarray(distances.transpose(3, 0, 1, 2))
    costs = [_step_costs(terrains.transpose(axes)) for axes in ((2, 0, 1), (1, 0, 2))]
    room = np.empty(distances.shape[1:], np.float32)
    for _ in range(SWEEPS):
        for steps in costs:
            if room.shape != distances.shape[1:]:
                room = np.empty(distances.shape[1:], np.float32)
            for index in range(1, len(distances)):
                np.add(distances[index - 1], steps[index - 1], out=room)
                np.minimum(distances[index], room, out=distances[index])
            for index in range(len(distances) - 2, -1, -1):
                np.add(distances[index + 1], steps[index], out=room)
                np.minimum(distances[index], room, out=distances[index])
            distances = np.ascontiguousarray(distances.transpose(3, 1, 2, 0))
    distances = distances.transpose(1, 2, 3, 0)
    near = np.exp(-distances / np.array(REACHES, np.float32)[:, None, None, None])
    to_positive, to_negative = distances[:, 0], distances[:, 1]
    known = (distances < FAR / 2).all(axis=1)
    nearer = np.where(known, (to_negative - to_positive) / (to_negative + to_positive + np.float32(1e-3)), 0.0)
    result = np.concatenate([near, nearer[:, None]], axis=1).reshape(3 * len(REACHES), height, width)
    return np.asarray(result.transpose(1, 2, 0), np.float32)


def _convolved(x: FloatArray, kernel: FloatArray, bias: FloatArray) -> FloatArray:
    """Convolve with 3 x 3 pixels, some rows at a time, so that they stay in the processor's cache.

    Args:
        x: (H, W, C); beside the image are zeros.
        kernel: (3, 3 C, D), a matrix for each row.
        bias: (D,)
    """
    height, width, channels = x.shape
    result = np.empty((height, width, kernel.shape[2]), np.float32)
    most = min(_ROWS, height)
    # Behind each other the pixel to the left, the pixel, and the one to the right, from the row above to the row below.
    gathered = np.zeros((most + 2, width, 3 * channels), np.float32)
    for start in range(0, height, most):
        count = min(most, height - start)
        before, after = int(start > 0), int(start + count < height)
        rows = x[start - before : start + count + after]
        inner = gathered[1 - before : 1 + count + after]
        inner[:, 1:, :channels] = rows[:, :-1]
        inner[:, :, channels:-channels] = rows
        inner[:, :-1, -channels:] = rows[:, 1:]
        if not after:
            gathered[1 + count :] = 0.0
        flat, pixels = gathered.reshape(-1, 3 * channels), count * width
        total = result[start : start + count].reshape(pixels, -1)
        np.matmul(flat[:pixels], kernel[0], out=total)
        total += flat[width : width + pixels] @ kernel[1]
        total += flat[2 * width : 2 * width + pixels] @ kernel[2]
        total += bias
    return result


def _step_costs(terrains: FloatArray) -> FloatArray:
    steps = np.float32(STEP_COST) + np.abs(terrains[1:] - terrains[:-1])
    flat = np.full_like(steps[:, :1], 1.0 / len(terrains))
    return np.concatenate([steps, flat], axis=1)[:, :, None]


def _local(image: FloatArray) -> FloatArray:
    halved = _halved(image)
    maps = [np.float32(4.0) * (halved - _local_mean(halved, window)) for window in LOCAL_WINDOWS]
    for window in TOP_HATS:
        bright = image - _extreme(_extreme(image, window, np.minimum), window, np.maximum)
        dark = _extreme(_extreme(image, window, np.maximum), window, np.minimum) - image
        maps.append(np.float32(6.0) * (_halved(bright) - _halved(dark)))
    return np.concatenate([_unshuffled(image[None]) - np.float32(0.5), np.stack(maps, axis=2)], axis=2)


def _extreme(image: FloatArray, window: int, of: np.ufunc) -> FloatArray:
    """The minimum or maximum of the pixels in a window around each; scipy's filter takes ten times as long."""
    worst = np.inf if of is np.minimum else -np.inf
    for _ in range(2):  # along one axis, then along the other
        image = np.pad(image.T, ((window // 2, window // 2), (0, 0)), constant_values=worst)
        reach = 1
        while reach < window:
            step = min(reach, window - reach)
            image = of(image[:-step], image[step:])
            reach += step
    return image


def _filters(local: FloatArray) -> FloatArray:
    image = local[..., :4].mean(axis=2) + np.float32(0.5)
    mean = _local_mean(image, 5)
    spread = np.sqrt(np.maximum(_local_mean(image**2, 5) - mean**2, 0.0))
    maps = [image[..., None], 0.5 + 0.5 * local[..., 4:], 3.0 * spread[..., None]]
    return np.clip(np.concatenate(maps, axis=2, dtype=np.float32), 0.0, 1.0)


def _compare(filtered: FloatArray, halved: FloatArray) -> FloatArray:
    height, width, count = filtered.shape
    box = halved[BOX]
    positive = (halved[POSITIVE] + BOX_WEIGHT * box).ravel()
    negative = (halved[NEGATIVE] + BOX_WEIGHT * (box.max() - box) + PRIOR_WEIGHT).ravel()
    if not positive.any():
        return np.zeros((height, width, count + 1), np.float32)
    values = _bins(filtered)
    ratios = _read(_ratios(_densities(*values, positive), _densities(*values, negative)), *values)
    odds = np.ones((len(ratios), count + 1), np.float32)
    odds[:, :count] = 2 * np.arctanh(np.clip(ratios, -SUREST, SUREST))
    # A logistic regression, by Newton's method.
    inside, outside = (0.5 * one / max(one.sum(), 1e-6) for one in (positive, negative))
    weights = inside + outside
    penalty = np.full(count + 1, RIDGE)
    penalty[-1] = 1e-6
    factors = np.zeros(count + 1)
    for _ in range(NEWTON_STEPS):
        probability = 1 / (1 + np.exp(-(odds @ factors)))
        gradient = odds.T @ (weights * probability - inside) + penalty * factors
        curvature = (odds * (weights * probability * (1 - probability))[:, None]).T @ odds + np.diag(penalty)
        factors = factors - np.linalg.solve(curvature, gradient)
    both = np.concatenate([ratios, np.tanh(0.5 * (odds @ factors))[:, None]], axis=1)
    return both.reshape(height, width, count + 1).astype(np.float32)


def _bins(filtered: FloatArray) -> tuple[NDArray[np.intp], FloatArray]:
    """The lower of the two bins between which each value of (h, w, K) lies, (h w, K), and how far towards the upper."""
    position = filtered.reshape(-1, filtered.shape[2]) * np.float32(BINS - 1)
    lower = np.minimum(position.astype(np.intp), BINS - 2)
    return lower, position - lower


def _densities(lower: NDArray[np.intp], share: FloatArray, weights: FloatArray) -> FloatArray:
    """Histograms (K, bins) under weights (h w,), of sum 1."""
    bins = np.arange(BINS)
    smoothing = np.exp(-0.5 * (bins[:, None] - bins) ** 2.0)
    smoothing /= smoothing.sum(axis=1, keepdims=True)
    counts = np.stack(
        [
            np.bincount(below, weights * (1 - part), BINS) + np.bincount(below + 1, weights * part, BINS)
            for below, part in zip(lower.T, share.T, strict=True)
        ]
    )
    counts = counts @ smoothing
    return np.asarray(counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-6), np.float32)


def _ratios(inside: FloatArray, outside: FloatArray) -> FloatArray:
    return np.asarray(2 * inside / np.maximum(inside + outside, 1e-6) - 1, np.float32)


def _read(tables: FloatArray, lower: NDArray[np.intp], share: FloatArray) -> FloatArray:
    """Interpolate tables (K, bins) at positions (h w, K)."""
    return np.stack(
        [
            table[below] * (1 - part) + table[below + 1] * part
            for table, below, part in zip(tables, lower.T, share.T, strict=True)
        ],
        axis=1,
    )


def _local_mean(image: FloatArray, window: int) -> FloatArray:
    def weights(side: int) -> FloatArray:
        positions = np.arange(side)
        near = (np.abs(positions[:, None] - positions) <= window // 2).astype(np.float32)
        return np.asarray(near / near.sum(axis=1, keepdims=True), np.float32)

    return np.asarray(weights(image.shape[0]) @ image @ weights(image.shape[1]).T, np.float32)


def _halved(channel: FloatArray) -> FloatArray:
    rows = channel[::2] + channel[1::2]  # several times as fast as a mean over two short axes
    return np.asarray(np.float32(0.25) * (rows[:, ::2] + rows[:, 1::2]), np.float32)


def _unshuffled(channels: FloatArray) -> FloatArray:
    """Bring channels (C, H, W) to (H/2, W/2, 4 C), the four pixels of a place behind each other."""
    count, height, width = channels.shape
    split = channels.reshape(count, height // 2, 2, width // 2, 2).transpose(1, 3, 0, 2, 4)
    return split.reshape(height // 2, width // 2, 4 * count)


def _add_doubled(x: FloatArray, coarse: FloatArray) -> FloatArray:
    """Add a map of half the size, interpolated linearly; in place."""
    for row, rows in enumerate(_quarters(coarse, 0)):
        for column, part in enumerate(_quarters(rows, 1)):
            x[row::2, column::2] += part
    return x


def _quarters(x: FloatArray, axis: int) -> tuple[FloatArray, FloatArray]:
    """Values a quarter of a step before and after each place along an axis; at the border it goes on."""
    places, near = np.arange(x.shape[axis]), np.float32(0.75) * x
    before, after = (x.take((places + step).clip(0, places[-1]), axis) for step in (-1, 1))
    return near + np.float32(0.25) * before, near + np.float32(0.25) * after


def _moments(embedding: FloatArray, weights: FloatArray) -> FloatArray:
    """Second moments (M, d, d) of embeddings (h, w, d) under weights (M, h, w)."""
    x = embedding.reshape(-1, embedding.shape[2])
    return np.stack([(x * weight.reshape(-1, 1)).T @ x for weight in weights])


def _mean(moments: FloatArray) -> FloatArray:
    return moments / np.maximum(moments[-1, -1], np.float32(1e-6))


def _places(height: int, width: int) -> FloatArray:
    """Places of a map, (height width, 2), from -0.5 to 0.5."""
    axes = ((np.arange(n, dtype=np.float32) + 0.5) / n - 0.5 for n in (height, width))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 2).astype(np.float32)


def _by_head(x: FloatArray, heads: int) -> FloatArray:
    """Bring a map (h, w, heads * n) to (heads, h w, n)."""
    return x.reshape(-1, heads, x.shape[2] // heads).transpose(1, 0, 2)


def _unit_keys(x: FloatArray, heads: int) -> FloatArray:
    """Bring a map (h, w, heads * K) to keys (heads, h w, K), of length one around their mean."""
    keys = _by_head(x, heads)
    return _unit(keys - keys.mean(axis=1, keepdims=True))


def _attend(
    queries: FloatArray,
    keys: FloatArray,
    values: FloatArray,
    preference: FloatArray,
    places: FloatArray,
    likeness: FloatArray,
) -> FloatArray:
    """Attend from places of an image (heads, P, key) to those of S entries (heads, S, P, key); (heads, P, n).

    Nearer places are preferred, as strongly as a head wants, and entries that are more alike.
    """
    heads, count, each = keys.shape[:3]
    one = np.ones((len(places), 1), np.float32)
    alike = np.repeat(likeness, each)[:, None]
    found = np.empty((heads, len(places), values.shape[3]), np.float32)
    for head, near in enumerate(preference):
        # -near * |query's place - key's place| ** 2 as a product, but for what is the same for all keys.
        where = np.tile(np.concatenate([places, -near * (places**2).sum(axis=1, keepdims=True)], axis=1), (count, 1))
        offered = np.concatenate([keys[head].reshape(count * each, -1), where, alike], axis=1, dtype=np.float32)
        asked = np.concatenate([queries[head], 2 * near * places, one, one], axis=1, dtype=np.float32)
        told = np.concatenate([values[head].reshape(count * each, -1), np.tile(one, (count, 1))], axis=1)
        for start in range(0, len(asked), _QUERIES):
            scores = asked[start : start + _QUERIES] @ offered.T
            scores -= scores.max(axis=1, keepdims=True)
            np.exp(scores, out=scores)
            summed = scores @ told
            found[head, start : start + _QUERIES] = summed[:, :-1] / summed[:, -1:]
    return found


def _unit(x: FloatArray) -> FloatArray:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12), np.float32)
