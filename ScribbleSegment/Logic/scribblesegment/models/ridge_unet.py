"""The embedded network: an image encoder, a per-image ridge classifier, and a decoder for prompts and context.

The encoder (EfficientNet-Lite0 up to 1/16 of the resolution, batch norms folded) sees the image alone and runs once a
slice. Labelled pixels, of this image (strokes, clicks, boxes, the previous prediction) and of context entries, are the
training set of linear classifiers on its features, solved in closed form (ridge regression; Bertinetto et al. 2019,
R2-D2; Bhat et al. 2020, LWL). Their normal equations add up, so a context entry is a small matrix, whatever its size,
and a prediction takes as long with 100 entries as with one. What position says is carried over by attention between
coarse patches. A small U-shaped decoder makes logits of prompts, scores, geodesic distances and image features.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.models.cues import filter_image
from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE, PREVIOUS_LOGITS
from scribblesegment.models.layers import without_autocast

# EfficientNet-Lite0 up to 1/16: kernel, stride, expansion, input and output channels, blocks.
_STAGES = (
    (3, 1, 1, 32, 16, 1),
    (3, 2, 6, 16, 24, 2),
    (5, 2, 6, 24, 40, 2),
    (3, 2, 6, 40, 80, 3),
    (5, 1, 6, 80, 112, 3),
)
_TAPS = (0, 1, 2, 4)  # stages whose outputs are features, at 1/2, 1/4, 1/8 and 1/16
ENCODER_CHANNELS = (16, 24, 40, 112)

# Grey values in [0, 1] are brought to about the range the encoder was pretrained on.
_MEAN, _STD = 0.5, 0.5

_HEADS = 2  # of the attention between patches
_PATCH = 4  # side of a patch of a mask at 1/2, which is one place at 1/8
_FIRST_PREFERENCES = (50.0, 4.0)  # for the same place, the image's side being one
_SCORES = 5  # of the ridge classifiers on one kind of pixel features; see Output
_BINS = 6  # of each filter's values, for the classifiers on plain filters
_LOCAL = 6  # channels that describe a pixel by its values
_GEODESIC, _DISTANCE = 9, 3
_REACH = 0.06  # distance at which nearness has fallen to 1 / e, the image's side being one
_BOX_WEIGHT = 0.02  # of a pixel in a box, or outside of all, beside one under a stroke


@dataclass(frozen=True)
class RidgeUNetConfig:
    """Shape of a `RidgeUNet`."""

    widths: tuple[int, ...] = (32, 48, 80, 112, 128)  # decoder channels at 1/2, 1/4, ... 1/32
    embedding: int = 80  # channels the ridge classifiers see: a projection of all features, first their main components
    key: int = 32  # channels of a patch's key in each head of the attention
    ridge: bool = True  # per-image classifiers; without them their scores are zero
    geodesic: bool = True  # geodesic distances to the strokes, over the image and over the score
    distance: bool = True  # straight distances to the strokes
    fused: bool = True  # image features in the decoder
    folded: bool = False  # batch norms are folded into the convolutions, as in exported weights


class Pixels(NamedTuple):
    """Pixel features that classifiers see; the last of the d + 1 channels is 1. Float32."""

    embedding: Tensor  # (B, d + 1, H/2, W/2)
    sparse: Tensor  # (B, d + 1, H/4, W/4): every second of them, for sums over the whole image
    everywhere: Tensor  # (B, d + 1, d + 1): second moments of those, mean


class Features(NamedTuple):
    """What the encoder says of images; computed once a slice."""

    levels: tuple[Tensor, ...]  # projected for the decoder, at 1/2, 1/4, 1/8 and 1/16
    pixels: tuple[Pixels, Pixels]  # learnt features, and plain filters by their values
    keys: Tensor  # (B, heads, H/8 W/8, key), of length one; float32
    places: Tensor  # (1, 1, H/8 W/8, 2), from -0.5 to 0.5
    summary: Tensor  # (B, key): of the whole image, of length one


class Entries(NamedTuple):
    """Context entries: what an image with a mask is kept as. S is the number of entries of each of G groups."""

    # For both kinds of pixel features (G, S, 2, d + 1, d + 1): second moments inside and outside the mask, over the
    # number of pixels.
    moments: tuple[Tensor, Tensor]
    keys: Tensor  # (G, S, heads, patches, key)
    places: Tensor  # (1, 1, patches, 2)
    values: Tensor  # (G, S, patches, PATCH ** 2), masks at 1/2
    summary: Tensor  # (G, S, key)


class Evidence(NamedTuple):
    """What a context says of a target; computed once a slice."""

    moments: tuple[Tensor, Tensor]  # (B, 2, d + 1, d + 1)
    carried: Tensor  # (B, heads, H/2, W/2) in [-1, 1]
    present: Tensor  # (B,): 1 where there is a context, else 0


class Output(NamedTuple):
    """Logits, and the scores that training supervises besides."""

    logits: Tensor  # (B, 1, H, W)
    # (B, 10, H/2, W/2), for both kinds of pixel features: by strokes, with little and with much weight of all pixels as
    # background; by strokes and the previous prediction; by context; by context and strokes.
    scores: Tensor
    valid: Tensor  # (B, 10): 1 where the score means something


class _Depthwise(nn.Conv2d):
    """Depthwise convolution, in float32: with bfloat16 its gradient takes many times as long on processors."""

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled():
            with torch.autocast("cpu", enabled=False):
                return super().forward(x.float())
        return super().forward(x)


class _InvertedResidual(nn.Module):
    def __init__(self, kernel: int, stride: int, expansion: int, inputs: int, outputs: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = nn.Conv2d(inputs, hidden, 1) if expansion > 1 else None
        self.depthwise = _Depthwise(hidden, hidden, kernel, stride, kernel // 2, groups=hidden)
        self.project = nn.Conv2d(hidden, outputs, 1)
        self.is_residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else functional.relu6(self.expand(x))
        y = self.project(functional.relu6(self.depthwise(y)))
        return x + y if self.is_residual else y


class LiteEncoder(nn.Module):
    """EfficientNet-Lite0 up to 1/16 of the resolution, for grey images, without batch norms (they are folded in)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 32, 3, 2, 1)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    _InvertedResidual(
                        kernel, stride if n == 0 else 1, expansion, inputs if n == 0 else outputs, outputs
                    )
                    for n in range(blocks)
                )
            )
            for kernel, stride, expansion, inputs, outputs, blocks in _STAGES
        )

    def forward(self, image: Tensor) -> list[Tensor]:
        """Give features at 1/2, 1/4, 1/8 and 1/16 of images (B, 1, H, W) in [0, 1]; sides divisible by 16."""
        x = functional.relu6(self.stem((image - _MEAN) / _STD))
        features = []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return [features[tap] for tap in _TAPS]


class _Convolution(nn.Sequential):
    """Convolution, batch norm (folded at export) and ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, relu: bool = True, folded: bool = False
    ) -> None:
        padding = kernel // 2 if kernel % 2 else 0
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=folded)]
        layers += [] if folded else [nn.BatchNorm2d(outputs)]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class RidgeUNet(nn.Module):
    """Encoder, ridge classifiers and decoder; see the module."""

    def __init__(self, config: RidgeUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RidgeUNetConfig()
        widths, d = config.widths, config.embedding
        self.encoder = LiteEncoder()
        # Embedding for the classifiers at 1/2: the levels, each brought to d channels and added up from the coarsest.
        self.laterals = nn.ModuleList(nn.Conv2d(c, d, 1) for c in (ENCODER_CHANNELS[0] + _LOCAL, *ENCODER_CHANNELS[1:]))
        self.key_laterals = nn.ModuleList(nn.Conv2d(c, _HEADS * config.key, 1) for c in ENCODER_CHANNELS[2:])
        self.summarise = nn.Linear(ENCODER_CHANNELS[-1], config.key)
        self.preferences = nn.Parameter(torch.tensor(_FIRST_PREFERENCES).log())
        self.key_scale = nn.Parameter(torch.tensor([30.0, 30.0]).log())
        self.entry_scale = nn.Parameter(torch.tensor(6.0).log())
        self.log_ridge = nn.Parameter(torch.full((_SCORES,), 0.05).log())
        # Weights: all pixels as background (little, much), the previous prediction, strokes beside a context.
        self.log_prior = nn.Parameter(torch.tensor([0.1, 1.0, 0.5, 1.0]).log())
        self.plain_ridge = nn.Parameter(torch.full((_SCORES,), 0.05).log())
        self.plain_prior = nn.Parameter(torch.tensor([0.1, 1.0, 0.5, 1.0]).log())
        inputs = 4 * 5 + 2 * _SCORES + _GEODESIC + _HEADS + 3 + _DISTANCE
        folded = config.folded
        self.enter = _Convolution(inputs, widths[0], 1, relu=False, folded=folded)
        self.fuse = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(ENCODER_CHANNELS, widths, strict=False))
        steps = list(itertools.pairwise(widths))
        self.downs = nn.ModuleList(_Convolution(a, b, 2, 2, relu=False, folded=folded) for a, b in steps)
        self.mixes = nn.ModuleList(_Convolution(w, w, folded=folded) for w in widths)
        self.narrow = nn.ModuleList(_Convolution(b, a, 1, relu=False, folded=folded) for a, b in steps)
        self.ups = nn.ModuleList(_Convolution(w, w, folded=folded) for w in widths[:-1])
        self.deepest = _Convolution(widths[-1], widths[-1], folded=folded)
        self.leave = nn.Conv2d(widths[0], 4, 1)
        # Logits begin as the scores, and the decoder learns what to change.
        self.score_gain = nn.Parameter(torch.tensor([0.0, 1.0, 0.5, 0.5, 1.0]))

    @torch.no_grad()
    def calibrate(self, images: Tensor) -> None:
        """Fit what reads the encoder's features to their statistics on images (B, 1, H, W); before training.

        Embedding and keys become the features' main components, the embedding's partly whitened: untrained, the
        classifiers are then about as good as on all features, with random projections far worse.
        """
        levels = self.encoder(images)
        spreads = [float(level.std()) for level in levels]
        for reader, spread in zip(self.fuse, spreads, strict=False):
            assert isinstance(reader, nn.Conv2d)
            reader.weight /= spread
        self.summarise.weight /= spreads[-1]
        fine = torch.cat([levels[0], spreads[0] * _local(images)], dim=1)
        side = fine.shape[-2:]
        parts = [functional.interpolate(x / s, side, mode="bilinear") for x, s in zip(levels, spreads, strict=True)]
        parts[0] = fine / spreads[0]
        features = torch.cat(parts, dim=1)[..., ::3, ::3].transpose(0, 1).flatten(1).double()
        center = features.mean(dim=1)
        values, axes = torch.linalg.eigh(torch.cov(features))
        count = self.config.embedding
        projection = (axes[:, -count:] * values[-count:].clamp(min=1e-6) ** -0.25).T.float()
        columns = projection.split([part.shape[1] for part in parts], dim=1)
        for index, (lateral, part) in enumerate(zip(self.laterals, columns, strict=True)):
            assert isinstance(lateral, nn.Conv2d)
            assert lateral.bias is not None
            scaled = part / spreads[index]
            if index == 0:
                scaled[:, ENCODER_CHANNELS[0] :] = part[:, ENCODER_CHANNELS[0] :]
            lateral.weight.copy_(scaled[..., None, None])
            lateral.bias.zero_()
        coarse = torch.cat([levels[2] / spreads[2], _doubled(levels[3] / spreads[3])], dim=1)
        coarse = (coarse - coarse.mean(dim=(2, 3), keepdim=True)).transpose(0, 1).flatten(1).double()
        axes = torch.linalg.eigh(torch.cov(coarse))[1][:, -self.config.key :].T.float()
        for reader, part, spread in zip(
            self.key_laterals, axes.split(ENCODER_CHANNELS[2:], 1), spreads[2:], strict=True
        ):
            assert isinstance(reader, nn.Conv2d)
            reader.weight.copy_(part.repeat(_HEADS, 1)[..., None, None] / spread)
        first_lateral = self.laterals[0]
        assert isinstance(first_lateral, nn.Conv2d)
        assert first_lateral.bias is not None
        first_lateral.bias.copy_(-projection @ center.float())

    def encode(self, image: Tensor) -> Features:
        """Encode images (B, 1, H, W) in [0, 1]; sides divisible by 32."""
        e2, e4, e8, e16 = self.encoder(image)
        summed = self.laterals[3](e16)
        for lateral, level in zip((self.laterals[2], self.laterals[1]), (e8, e4), strict=True):
            summed = lateral(level) + _doubled(summed)
        fine = torch.cat([e2, _local(image).to(e2.dtype)], dim=1)
        embedding = (self.laterals[0](fine) + _doubled(summed)).float()
        embedding = functional.pad(embedding, (0, 0, 0, 0, 0, 1), value=1.0)
        with without_autocast(image.device):
            pixels = _pixels(embedding), _pixels(_plain(image.float()))
        described = self.key_laterals[0](e8) + _doubled(self.key_laterals[1](e16))
        keys = described.float().unflatten(1, (_HEADS, -1)).flatten(3).mT
        keys = functional.normalize(keys - keys.mean(dim=2, keepdim=True), dim=-1)
        rows, columns = ((torch.arange(n, device=image.device) + 0.5) / n - 0.5 for n in described.shape[-2:])
        places = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)[None, None]
        summary = functional.normalize(self.summarise(e16.mean(dim=(2, 3))).float(), dim=-1)
        levels = tuple(fuse(level) for fuse, level in zip(self.fuse, (e2, e4, e8, e16), strict=False))
        return Features(levels, pixels, keys, places, summary)

    def entries(self, features: Features, masks: Tensor, groups: int = 1) -> Entries:
        """Make context entries.

        Args:
            features: Of G S images.
            masks: (G S, 1, H, W) in [0, 1].
            groups: G.
        """
        with without_autocast(masks.device):
            inside = functional.avg_pool2d(masks.float(), 2)
            near = functional.avg_pool2d(inside, 15, 1, 7).clamp(max=1.0).sqrt()
            weights = torch.cat([inside, (1.0 - inside) * (0.2 + near)], dim=1)
            moments = [
                _moments(one.sparse, weights[..., ::2, ::2]) * 4 / weights[0, 0].numel() for one in features.pixels
            ]
        values = functional.pixel_unshuffle(2.0 * inside - 1.0, _PATCH).flatten(2).mT
        split = (groups, -1)
        return Entries(
            (moments[0].unflatten(0, split), moments[1].unflatten(0, split)),
            features.keys.unflatten(0, split),
            features.places,
            values.unflatten(0, split),
            features.summary.unflatten(0, split),
        )

    def evidence(
        self, features: Features, entries: Entries, allowed: Tensor | None = None, *, most: int = 0
    ) -> Evidence:
        """Compute what context entries say of targets.

        Args:
            features: Of the targets, B = G T, those of a group behind each other.
            entries: Of G groups.
            allowed: bool (B, S), which entries each target may use; all by default.
            most: So many of the entries most like the target are attended to, for one target; 0 for all. The
                classifiers use all entries anyway.
        """
        groups, size = entries.summary.shape[:2]
        batch = len(features.summary)
        if allowed is None:
            allowed = torch.ones((batch, size), dtype=torch.bool, device=features.keys.device)
        present = allowed.any(dim=1)
        allowed = allowed | ~present[:, None]  # something to attend to, for what is not used
        each = batch // groups
        with without_autocast(features.keys.device):
            likeness = features.summary.unflatten(0, (groups, each)) @ entries.summary.mT  # (G, T, S)
            likeness = self.entry_scale.exp() * likeness.flatten(0, 1)
            likeness = likeness.masked_fill(~allowed, -torch.inf)
            shares = likeness.softmax(dim=1)
            weighed = [
                (shares.unflatten(0, (groups, each)) @ one.flatten(2)).flatten(0, 1).unflatten(1, one.shape[2:])
                for one in entries.moments
            ]
            if 0 < most < size and batch == 1:
                likeness, chosen = likeness.topk(most, dim=1)
                entries = entries._replace(keys=entries.keys[:, chosen[0]], values=entries.values[:, chosen[0]])
            carried = self._attend(features, entries, likeness, groups, each)
        height, width = (side // _PATCH for side in features.pixels[0].embedding.shape[-2:])
        carried = functional.pixel_shuffle(carried.mT.unflatten(3, (height, width)).flatten(1, 2), _PATCH)
        return Evidence((weighed[0], weighed[1]), carried * present[:, None, None, None], present.float())

    def _attend(self, features: Features, entries: Entries, likeness: Tensor, groups: int, each: int) -> Tensor:
        """Carry patches of masks over, (B, heads, patches, PATCH ** 2)."""
        preferences = self.preferences.exp()[None, :, None, None]
        scale = self.key_scale.exp()[None, :, None, None]
        batch, size = likeness.shape
        queries = torch.cat(
            [scale * features.keys, (2.0 * preferences * features.places).expand(batch, -1, -1, -1)], -1
        )
        queries = torch.cat([queries, torch.ones_like(queries[..., :1])], dim=-1)
        keys = entries.keys.transpose(1, 2).flatten(2, 3)  # (G, heads, S patches, key)
        places = entries.places.expand(groups, _HEADS, -1, -1)
        nearness = -preferences * places.square().sum(dim=-1, keepdim=True)
        keys = torch.cat([keys, places.repeat(1, 1, size, 1), nearness.repeat(1, 1, size, 1)], dim=-1)
        patches = entries.keys.shape[3]
        bias = likeness.unflatten(0, (groups, each)).repeat_interleave(patches, dim=2)  # (G, T, S patches)
        values = entries.values.flatten(1, 2)[:, None].expand(-1, _HEADS, -1, -1)
        taken = []
        for index in range(each):  # targets of a group one after the other: their biases differ
            query = queries.unflatten(0, (groups, each))[:, index]
            scores = query @ keys.mT + bias[:, index][:, None, None]
            taken.append(scores.softmax(dim=-1) @ values)
        return torch.stack(taken, dim=1).flatten(0, 1)

    def decode(self, features: Features, prompts: Tensor, evidence: Evidence | None = None) -> Output:
        """Predict logits.

        Args:
            features: Of the images.
            prompts: (B, 5, H, W); channels as in `scribblesegment.models.encoding`, clicks as discs.
            evidence: What the context says; None without.
        """
        batch, height, width = len(prompts), *prompts.shape[-2:]
        x = prompts.float()
        previous = x[:, PREVIOUS_LOGITS : PREVIOUS_LOGITS + 1]
        has_previous = (previous.flatten(1).abs().amax(dim=1) > 0).float()
        if evidence is None:
            first, second = (x.new_zeros((batch, 2, *one.everywhere.shape[1:])) for one in features.pixels)
            carried = x.new_zeros((batch, _HEADS, height // 2, width // 2))
            evidence = Evidence((first, second), carried, x.new_zeros(batch))
        with without_autocast(x.device):
            halved = functional.avg_pool2d(x, 2)
            shape = (batch, 2 * _SCORES, height // 2, width // 2)
            scores, valid = x.new_zeros(shape), x.new_zeros(shape[:2])
            if self.config.ridge:
                priors = (self.log_prior, self.log_ridge), (self.plain_prior, self.plain_ridge)
                found = [
                    _scores(pixels, halved, has_previous, moments, evidence.present, prior.exp(), ridge.exp())
                    for pixels, moments, (prior, ridge) in zip(features.pixels, evidence.moments, priors, strict=True)
                ]
                scores, valid = (torch.cat(part, dim=1) for part in zip(*found, strict=True))
            paths = x.new_zeros((batch, _GEODESIC, *shape[2:]))
            if self.config.geodesic:
                best = [
                    torch.where(valid[:, n + 4, None, None] > 0, scores[:, n + 4], scores[:, n + 1]).detach()
                    for n in (0, _SCORES)
                ]
                paths = _geodesic(halved, torch.sigmoid(3.0 * torch.stack(best, dim=1)))
            flags = torch.stack([valid[:, 0], has_previous, evidence.present], dim=1)[..., None, None]
            seen = torch.cat([x[:, :PREVIOUS_LOGITS], torch.tanh(0.25 * previous)], dim=1)
            distances = _distances(halved) if self.config.distance else x.new_zeros((batch, _DISTANCE, *shape[2:]))
            clamped = scores.clamp(-3.0, 3.0)
            inputs = torch.cat(
                [
                    functional.pixel_unshuffle(seen, 2),
                    clamped[:, :_SCORES],
                    paths[:, :6],
                    evidence.carried,
                    flags.expand(-1, -1, height // 2, width // 2),
                    distances,
                    clamped[:, _SCORES:],
                    paths[:, 6:],
                ],
                dim=1,
            ).contiguous(memory_format=torch.channels_last)
        logits = self._segment(inputs, features.levels).float()
        with without_autocast(x.device):
            start = (clamped[:, :_SCORES] * self.score_gain[None, :, None, None]).sum(dim=1, keepdim=True)
        return Output(logits + _doubled(start), scores, valid)

    def folded(self) -> dict[str, Tensor]:
        """Parameters of the same network with `folded` set."""
        state = self.state_dict()
        for name, module in self.named_modules():
            if isinstance(module, _Convolution) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
                norm = module[1]
                assert norm.running_var is not None
                assert norm.running_mean is not None
                scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
                state[f"{name}.0.weight"] = state[f"{name}.0.weight"] * scale[:, None, None, None]
                state[f"{name}.0.bias"] = norm.bias - norm.running_mean * scale
                state = {key: value for key, value in state.items() if not key.startswith(f"{name}.1.")}
        return {key: value.detach() for key, value in state.items()}

    def _segment(self, inputs: Tensor, levels: tuple[Tensor, ...]) -> Tensor:
        x = self.enter(inputs)
        skips = []
        for index, mix in enumerate(self.mixes):
            if index > 0:
                x = self.downs[index - 1](x)
            if index < len(levels) and self.config.fused:
                x = x + levels[index]
            x = functional.relu(x)
            x = x + mix(x)
            skips.append(x)
        x = x + self.deepest(x)
        for index in range(len(self.ups) - 1, -1, -1):
            x = functional.relu(_doubled(self.narrow[index](x)) + skips[index])
            x = x + self.ups[index](x)
        return functional.pixel_shuffle(self.leave(x), 2)


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear")


def _pixels(embedding: Tensor) -> Pixels:
    sparse = embedding[..., ::2, ::2].contiguous()
    x = sparse.flatten(2)
    return Pixels(embedding, sparse, x @ x.mT / x.shape[2])


@torch.no_grad()
def _plain(image: Tensor) -> Tensor:
    """Describe pixels by the values of plain filters, top-hats among them, each spread over bins; (B, d + 1, h, w).

    A linear classifier of these compares histograms; vessels no wider than a stroke are told by it best.
    """
    values = filter_image(image).clamp(0.0, 1.0)
    centers = torch.linspace(0.0, 1.0, _BINS, device=image.device)[:, None, None]
    shares = (1.0 - (values[:, :, None] - centers).abs() * (_BINS - 1)).clamp(min=0.0).flatten(1, 2)
    return functional.pad(functional.avg_pool2d(shares, 2), (0, 0, 0, 0, 0, 1), value=1.0)


def _local(image: Tensor) -> Tensor:
    """Describe pixels by their values: four of each place at 1/2, and two differences to the surroundings."""
    halved = functional.avg_pool2d(image, 2)
    return torch.cat(
        [
            functional.pixel_unshuffle(image, 2) - 0.5,
            *(4.0 * (halved - functional.avg_pool2d(halved, n, 1, n // 2, count_include_pad=False)) for n in (5, 13)),
        ],
        dim=1,
    )


def _scores(
    pixels: Pixels,
    halved: Tensor,
    has_previous: Tensor,
    context: Tensor,
    present: Tensor,
    prior: Tensor,
    ridge: Tensor,
) -> tuple[Tensor, Tensor]:
    """Classify every pixel by what is labelled in the image and in the context; scores and which are valid."""
    strokes = _stroke_moments(pixels.embedding, halved[:, POSITIVE : NEGATIVE + 1])
    box = halved[:, BOX : BOX + 1, ::2, ::2]
    previous = torch.sigmoid(halved[:, PREVIOUS_LOGITS : PREVIOUS_LOGITS + 1, ::2, ::2])
    has_box = box.amax(dim=(2, 3), keepdim=True)
    total = pixels.everywhere[:, None] * previous[0].numel()
    if has_box.any() or has_previous.any():
        inner = _moments(pixels.sparse, torch.cat([box, previous], dim=1))
        outer = total * torch.cat([has_box, torch.ones_like(has_box)], dim=1) - inner
    else:
        inner = outer = strokes.new_zeros((len(box), 2, *strokes.shape[-2:]))
    boxed = 4.0 * _BOX_WEIGHT * torch.stack([inner[:, 0], outer[:, 0]], dim=1)
    moments = torch.cat([strokes + boxed, inner[:, 1:], outer[:, 1:]], dim=1)  # (B, 4, d + 1, d + 1)
    little, much, by_previous, by_strokes = prior
    everywhere = pixels.everywhere
    has_inside = (moments[:, 0, -1, -1] > 1e-6).float()
    inside, outside = _mean(moments[:, 0]), _mean(moments[:, 1])
    before_in, before_out = _mean(moments[:, 2]), _mean(moments[:, 3])
    use = (by_previous * has_previous)[:, None, None]
    context_in, context_out = _mean(context[:, 0]), _mean(context[:, 1])
    known = present[:, None, None]
    pairs = [
        (inside, outside + little * everywhere),
        (inside, outside + much * everywhere),
        (inside + use * before_in, outside + use * before_out + little * everywhere),
        (context_in, context_out),
        (
            known * context_in + by_strokes * inside,
            known * context_out + by_strokes * (outside + little * everywhere),
        ),
    ]
    has_example = present * (context[:, 0, -1, -1] > 1e-6)
    with_previous, with_example = torch.maximum(has_inside, has_previous), torch.maximum(has_example, has_inside)
    valid = torch.stack([has_inside, has_inside, with_previous, has_example, with_example], dim=1)
    factors = _solve(
        torch.stack([first for first, _ in pairs], dim=1),
        torch.stack([second for _, second in pairs], dim=1),
        ridge,
    )
    scores = factors @ pixels.embedding.flatten(2)
    return scores.unflatten(2, pixels.embedding.shape[-2:]) * valid[..., None, None], valid


def _moments(embedding: Tensor, weights: Tensor) -> Tensor:
    """Weighted second moments (B, M, d, d) of embeddings (B, d, h, w) under weights (B, M, h, w)."""
    x = embedding.flatten(2)[:, None]
    return (x * weights.flatten(2)[:, :, None]) @ x.mT


def _stroke_moments(embedding: Tensor, strokes: Tensor) -> Tensor:
    """Moments (B, 2, d, d) under strokes (B, 2, h, w), which cover few pixels: only those are read."""
    weights = strokes.flatten(2)
    marked = weights.amax(dim=1) > 0.0
    count = max(1, int(marked.sum(dim=1).max()))
    chosen = marked.float().topk(count, dim=1).indices[:, None]  # marked ones come first; others weigh nothing
    x = embedding.flatten(2).gather(2, chosen.expand(-1, embedding.shape[1], -1))[:, None]
    return (x * weights.gather(2, chosen.expand(-1, 2, -1))[:, :, None]) @ x.mT


def _mean(moments: Tensor) -> Tensor:
    """Divide moments by the weight they were gathered with, which is their last element."""
    return moments / moments[..., -1:, -1:].clamp(min=1e-6)


def _solve(inside: Tensor, outside: Tensor, ridge: Tensor) -> Tensor:
    """Ridge regression of 1 inside and -1 outside, both alike in weight; factors (B, M, d + 1)."""
    count = inside.shape[-1]
    penalty = torch.ones(count, device=inside.device)
    penalty[-1] = 1e-2
    matrix = inside + outside + torch.diag(penalty) * ridge[None, :, None, None]
    target = inside[..., -1:] - outside[..., -1:]
    return torch.linalg.solve(matrix, target)[..., 0]


@torch.no_grad()
def _distances(halved: Tensor) -> Tensor:
    """Nearness of positive and of negative strokes, and which of them are nearer, (B, 3, h, w).

    Where two strokes run side by side the border lies between them, however strong another edge is.
    """
    strokes = halved[:, POSITIVE : NEGATIVE + 1] > 0.0
    side = strokes.shape[-1]
    far = 2.0 * side
    rows = torch.arange(strokes.shape[-2], device=halved.device, dtype=torch.float32)[:, None]
    above = rows - torch.cummax(torch.where(strokes, rows, -far), dim=-2).values
    below = torch.cummin(torch.where(strokes, rows, rows[-1] + far).flip(-2), dim=-2).values.flip(-2) - rows
    in_column = torch.minimum(above, below).clamp(max=far).square()
    columns = torch.arange(side, device=halved.device, dtype=torch.float32)
    apart = (columns[:, None] - columns).square()
    distance = (in_column[..., None, :] + apart).amin(dim=-1).sqrt() / side
    nearness = torch.exp(-distance / _REACH)
    to_positive, to_negative = distance.unbind(dim=1)
    known = strokes.flatten(2).any(dim=2).all(dim=1)[:, None, None]
    nearer = torch.where(known, (to_negative - to_positive) / (to_negative + to_positive + 1e-3), 0.0)
    return torch.cat([nearness, nearer[:, None]], dim=1)


@torch.no_grad()
def _geodesic(halved: Tensor, scores: Tensor) -> Tensor:
    """Measure shortest paths to the prompts over the image and over scores (B, 2, h, w), all at 1/2; (B, 9, h, w)."""
    from scribblesegment.models.cues import _FAR, _REACH, _SWEEPS, _path_lengths, _sweep

    box, positive, negative = halved[:, BOX], halved[:, POSITIVE], halved[:, NEGATIVE]
    outside = (box.amax(dim=(1, 2), keepdim=True) - box).clamp(min=0.0)
    negative = torch.maximum(negative, torch.where(positive > 0.0, 0.0, outside))
    seeds = torch.stack([positive, negative], dim=1) > 0.2
    seeds = seeds & ~seeds.flip(1)
    terrains = torch.cat([halved[:, IMAGE : IMAGE + 1], scores], dim=1)[:, :, None]
    distances = torch.where(seeds[:, None], 0.0, _FAR).expand(-1, terrains.shape[1], -1, -1, -1)
    rows, columns = _path_lengths(terrains), _path_lengths(terrains.mT)
    for _ in range(_SWEEPS - 1):
        distances = _sweep(distances, rows)
        distances = _sweep(distances.mT, columns).mT
    near = torch.exp(-distances / _REACH)
    to_positive, to_negative = distances[:, :, 0], distances[:, :, 1]
    known = (distances < _FAR / 2).all(dim=2)
    nearer = torch.where(known, (to_negative - to_positive) / (to_negative + to_positive + 1e-3), 0.0)
    return torch.cat([near, nearer[:, :, None]], dim=2).flatten(1, 2)


def pretrained_encoder(state: dict[str, Tensor] | None, calibration: Tensor) -> dict[str, Tensor]:
    """Parameters of a `LiteEncoder` from a published checkpoint of EfficientNet-Lite0.

    Args:
        state: The checkpoint's state dict; None for random parameters, scaled by the calibration images' statistics.
        calibration: (B, 1, H, W) in [0, 1].
    """
    eps = 1e-3
    result: dict[str, Tensor] = {}
    encoder = LiteEncoder()

    def fold(name: str, weight: Tensor, norm: str) -> None:
        assert state is not None
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + eps)
        result[f"{name}.weight"] = weight * scale[:, None, None, None]
        result[f"{name}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale

    if state is not None:
        # Three equal colours were normalised by these means and deviations.
        fold("stem", state["_conv_stem.weight"].sum(dim=1, keepdim=True), "_bn0")
        number = 0
        for index, stage in enumerate(_STAGES):
            for block in range(stage[-1]):
                source, target = f"_blocks.{number}", f"stages.{index}.{block}"
                norms = iter((0, 1, 2) if stage[2] > 1 else (1, 2))
                if stage[2] > 1:
                    fold(f"{target}.expand", state[f"{source}._expand_conv.weight"], f"{source}._bn{next(norms)}")
                fold(f"{target}.depthwise", state[f"{source}._depthwise_conv.weight"], f"{source}._bn{next(norms)}")
                fold(f"{target}.project", state[f"{source}._project_conv.weight"], f"{source}._bn{next(norms)}")
                number += 1
        return result
    # Every layer's outputs get mean zero and unit variance on the calibration images, as batch norms would give them.
    for module in encoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
            module.bias = nn.Parameter(torch.zeros(module.out_channels))

    def standardise(layer: nn.Module, _: object, output: Tensor) -> Tensor:
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        mean, std = output.mean(dim=(0, 2, 3)), output.std(dim=(0, 2, 3)).clamp(min=1e-3)
        layer.weight.data /= std[:, None, None, None]
        layer.bias.data.copy_(-mean / std)
        return (output - mean[:, None, None]) / std[:, None, None]

    handles = [m.register_forward_hook(standardise) for m in encoder.modules() if isinstance(m, nn.Conv2d)]
    with torch.no_grad():
        encoder(calibration)
    for handle in handles:
        handle.remove()
    return encoder.state_dict()
