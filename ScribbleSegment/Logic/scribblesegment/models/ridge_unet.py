"""The embedded network: an image encoder, a per-image ridge classifier, and a decoder for prompts and context.

The encoder sees the image alone and runs once a slice. Labelled pixels, of this image (strokes, clicks, boxes, the
previous prediction) and of context entries, are the training set of linear classifiers on its features, solved in
closed form (ridge regression; Bertinetto et al. 2019, R2-D2; Bhat et al. 2020, LWL). Their normal equations add up, so
a context entry is a small matrix, whatever its size, and a prediction takes as long with 100 entries as with one. What
position says is carried over by attention between coarse patches. A U-shaped decoder makes logits of prompts, scores,
geodesic distances and image features.

Everything is made of plain convolutions, matrix products and minima, and batch norms fold into the convolutions: quick
on processors, and little to write without torch.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.models.cues import (
    compare_densities,
    compare_with_prompts,
    densities_of,
    local_mean,
    top_hat,
)
from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE, PREVIOUS_LOGITS
from scribblesegment.models.layers import without_autocast

_LOCAL_WINDOWS = (7, 21)  # sides of the surroundings, at 1/2, that a pixel is compared with
_TOP_HATS = (3, 9)  # sides of the squares, at full resolution, that a pixel is told from as part of something smaller
_LOCAL = 4 + len(_LOCAL_WINDOWS) + len(_TOP_HATS)  # channels; see _local
_LOCAL_GAIN = 3.0  # by which the classifiers see them
_HEADS = 2  # of the attention between patches
_LISTENERS, _HEARD = 4, 32  # heads of the attention between places at 1/16, and what each brings
_FIRST_NEARNESS = (8.0, 3.0, 1.0, 0.3)  # of their preferences for the same place
_PATCH = 4  # side of a patch of a mask at 1/2, which is one place at 1/8
_FIRST_PREFERENCES = (50.0, 4.0)  # for the same place, the image's side being one
_TAUGHT = 5  # every so many patches gradients flow through in training
_SCORES = 4  # of the ridge classifiers; see Output
_TERRAINS = 3  # that paths lead over: the image, the score, and a flat one
_STEP_COST = 0.002  # of a place at 1/2, at least; the change of the terrain comes on top of it
_REACHES = (0.5, 0.5, 0.06)  # distance at which nearness has fallen to 1 / e; the flat terrain's side is 1
_SWEEPS = 3  # of rows and columns in turn
_FAR = 1e4  # stands for "not reached"
_SEED = 0.2  # fainter prompts are no seeds
_BOX_WEIGHT = 0.02  # of a pixel in a box, or outside of all, beside one under a stroke
_FLAGS = 3
_FILTERS = 6  # of what pixels are compared by: the image, differences, top-hats, spread
_COMPARED = _FILTERS + 1  # with what a regression makes of them
_EXAMPLED = _FILTERS + 1  # how likely values are under the context's masks, and the score beside its usual area


@dataclass(frozen=True)
class RidgeUNetConfig:
    """Shape of a `RidgeUNet`."""

    widths: tuple[int, ...] = (32, 64, 96, 128, 160)  # of the encoder, at 1/2, 1/4, ... 1/32
    decoder_widths: tuple[int, ...] = (32, 64, 96, 128, 128)
    embedding: int = 40  # channels the ridge classifiers see, beside those of the pixels' values
    key: int = 32  # channels of a patch's key in each head of the attention
    ridge: bool = True  # per-image classifiers; without them their scores are zero
    paths: bool = True  # distances to the prompts
    compared: bool = True  # how likely values are under the strokes
    fused: bool = True  # image features in the decoder
    folded: bool = False  # batch norms are folded into the convolutions, as in exported weights


class Features(NamedTuple):
    """What the encoder says of images; computed once a slice."""

    levels: tuple[Tensor, ...]  # projected for the decoder, at 1/2 to 1/32
    # What classifiers see: float32, the last of the d + 1 channels is 1.
    embedding: Tensor  # (B, d + 1, H/2, W/2)
    sparse: Tensor  # (B, d + 1, H/4, W/4): every second of them, for sums over the whole image
    everywhere: Tensor  # (B, d + 1, d + 1): second moments of those, mean
    filtered: Tensor  # (B, 6, H/2, W/2), in [0, 1]: what pixels are compared by; float32
    keys: Tensor  # (B, heads, H/8 W/8, key), of length one; float32
    summary: Tensor  # (B, key): of the whole image, of length one
    coarse: Tensor  # (B, C, H/16, W/16): what the attention at 1/16 sees


class Entries(NamedTuple):
    """Context entries: what an image with a mask is kept as. S is the number of entries of each of G groups."""

    moments: Tensor  # (G, S, 2, d + 1, d + 1): second moments inside and outside the mask, over the number of pixels
    keys: Tensor  # (G, S, heads, patches, key)
    values: Tensor  # (G, S, patches, PATCH ** 2), masks at 1/2
    summary: Tensor  # (G, S, key)
    densities: Tensor  # (G, S, 2, 6, bins): of values inside and outside the mask
    topics: Tensor  # (G, S, listeners, H/16 W/16, key): what places at 1/16 are found by
    told: Tensor  # (G, S, listeners, H/16 W/16, heard): and what they say


class Evidence(NamedTuple):
    """What a context says of a target; computed once a slice."""

    moments: Tensor  # (B, 2, d + 1, d + 1)
    carried: Tensor  # (B, heads, H/2, W/2) in [-1, 1]
    densities: Tensor  # (B, 2, 6, bins)
    level: Tensor  # (B,): the score that as many pixels exceed as masks cover on average
    heard: Tensor  # (B, C, H/16, W/16)
    present: Tensor  # (B,): 1 where there is a context, else 0


class Output(NamedTuple):
    """Logits, and what training supervises besides."""

    logits: Tensor  # (B, 1, H, W)
    presence: Tensor  # (B,): logits of the structure being in the image at all
    # (B, 4, H/2, W/2): by strokes; by strokes and the previous prediction; by context; by context and strokes.
    scores: Tensor
    valid: Tensor  # (B, 4): 1 where the score means something


class _Convolution(nn.Sequential):
    """Convolution, batch norm (folded at export) and ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, *, relu: bool = True, folded: bool = False) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=folded)]
        layers += [] if folded else [nn.BatchNorm2d(outputs)]
        super().__init__(*layers, *([nn.ReLU(inplace=True)] if relu else []))


class _Block(nn.Module):
    """Two convolutions beside an identity."""

    def __init__(self, channels: int, folded: bool) -> None:
        super().__init__()
        self.first = _Convolution(channels, channels, folded=folded)
        self.second = _Convolution(channels, channels, relu=False, folded=folded)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(x + self.second(self.first(x)))


class RidgeUNet(nn.Module):
    """Encoder, ridge classifiers and decoder; see the module."""

    def __init__(self, config: RidgeUNetConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RidgeUNetConfig()
        widths, decoder, d, folded = config.widths, config.decoder_widths, config.embedding, config.folded
        # Encoder. Its levels are added up from the coarsest for the embedding.
        self.stem = _Convolution(_LOCAL, widths[0], folded=folded)
        steps = list(itertools.pairwise(widths))
        self.strides = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in steps)
        self.blocks = nn.ModuleList(_Block(w, folded) for w in widths)
        self.laterals = nn.ModuleList(nn.Conv2d(w, d, 1) for w in widths)
        self.embed = nn.Conv2d(d, d, 1)
        self.key_laterals = nn.ModuleList(nn.Conv2d(w, _HEADS * config.key, 1) for w in widths[2:4])
        self.summarise = nn.Linear(widths[3], config.key)
        heard = _LISTENERS * _HEARD
        self.ask = nn.Conv2d(widths[3], _LISTENERS * config.key, 1)
        self.tell = nn.Conv2d(widths[3] + 4, heard, 1)
        self.tell_again = nn.Conv2d(heard, heard, 1)
        self.hear = nn.Conv2d(heard, decoder[3], 1)
        for parameter in self.hear.parameters():
            nn.init.zeros_(parameter)
        self.nearness = nn.Parameter(torch.tensor(_FIRST_NEARNESS).log())
        self.topic_scale = nn.Parameter(torch.full((_LISTENERS,), 10.0).log())
        # Attention and classifiers.
        self.preferences = nn.Parameter(torch.tensor(_FIRST_PREFERENCES).log())
        self.key_scale = nn.Parameter(torch.tensor([30.0, 30.0]).log())
        self.entry_scale = nn.Parameter(torch.tensor(6.0).log())
        self.log_ridge = nn.Parameter(torch.full((_SCORES,), 0.05).log())
        # Weights: all pixels as background, the previous prediction, strokes beside a context.
        self.log_prior = nn.Parameter(torch.tensor([0.7, 0.5, 1.0]).log())
        # Decoder.
        inputs = 4 * 5 + _SCORES + 3 * _TERRAINS + _HEADS + _FLAGS + _COMPARED + _EXAMPLED
        self.enter = _Convolution(inputs, decoder[0], 1, relu=False, folded=folded)
        self.fuse = nn.ModuleList(nn.Conv2d(c, w, 1) for c, w in zip(widths, decoder, strict=True))
        steps = list(itertools.pairwise(decoder))
        self.downs = nn.ModuleList(nn.Conv2d(a, b, 2, 2) for a, b in steps)
        self.mixes = nn.ModuleList(_Block(w, folded) for w in decoder)
        self.narrow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in steps)
        self.ups = nn.ModuleList(_Block(w, folded) for w in decoder[:-1])
        self.leave = nn.Conv2d(decoder[0], 4, 1)
        self.appears = nn.Linear(2 * decoder[-1] + _HEADS + 2, 1)
        # Logits begin as the scores, and the decoder learns what to change.
        self.score_gain = nn.Parameter(torch.tensor([1.0, 0.5, 0.5, 1.0]))

    def forward(self, x: Tensor) -> Tensor:
        """Predict logits (B, 1, H, W) from (B, 5, H, W), the channels of `scribblesegment.models.encoding`."""
        return self.decode(self.encode(x[:, IMAGE : IMAGE + 1]), x).logits

    def encode(self, image: Tensor) -> Features:
        """Encode images (B, 1, H, W) in [0, 1]; sides divisible by 32."""
        with without_autocast(image.device):
            local = _local(image.float())
            filtered = _filters(local)
        x = self.stem(local)
        levels = []
        for index, block in enumerate(self.blocks):
            x = block(self.strides[index - 1](x) if index > 0 else x)
            levels.append(x)
        summed = self.laterals[-1](levels[-1])
        for lateral, level in zip(reversed(self.laterals[:-1]), reversed(levels[:-1]), strict=True):
            summed = lateral(level) + _doubled(summed)
        learnt = self.embed(functional.relu(summed)).float()
        embedding = functional.pad(torch.cat([learnt, _LOCAL_GAIN * local], dim=1), (0, 0, 0, 0, 0, 1), value=1.0)
        sparse = embedding[..., ::2, ::2].contiguous()
        described = self.key_laterals[0](levels[2]) + _doubled(self.key_laterals[1](levels[3]))
        with without_autocast(image.device):
            x = sparse.flatten(2)
            everywhere = x @ x.mT / x.shape[2]
            keys = _unit_keys(described, _HEADS)
            summary = functional.normalize(self.summarise(levels[3].float().mean(dim=(2, 3))), dim=-1)
        fused = tuple(fuse(level) for fuse, level in zip(self.fuse, levels, strict=True))
        return Features(fused, embedding, sparse, everywhere, filtered, keys, summary, levels[3])

    def entries(self, features: Features, masks: Tensor, groups: int = 1) -> Entries:
        """Make context entries.

        Args:
            features: Of G S images.
            masks: (G S, 1, H, W) in [0, 1].
            groups: G.
        """
        with without_autocast(masks.device):
            inside = functional.avg_pool2d(masks.float(), 2)
            near = local_mean(inside, 15).clamp(0.0, 1.0).sqrt()
            weights = torch.cat([inside, (1.0 - inside) * (0.2 + near)], dim=1)
            moments = _moments(features.sparse, weights[..., ::2, ::2]) * 4 / weights[0, 0].numel()
            densities = densities_of(features.filtered, weights)
        values = functional.pixel_unshuffle(2.0 * inside - 1.0, _PATCH).flatten(2).mT
        quarters = functional.pixel_unshuffle(functional.avg_pool2d(2.0 * inside - 1.0, 4), 2)
        said = self.tell(torch.cat([features.coarse, quarters.to(features.coarse.dtype)], dim=1))
        said = self.tell_again(functional.relu(said)).float().unflatten(1, (_LISTENERS, -1)).flatten(3).mT
        split = (groups, -1)
        return Entries(
            moments.unflatten(0, split),
            features.keys.unflatten(0, split),
            values.unflatten(0, split),
            features.summary.unflatten(0, split),
            densities.unflatten(0, split),
            _unit_keys(self.ask(features.coarse), _LISTENERS).unflatten(0, split),
            said.unflatten(0, split),
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
            shares = likeness.softmax(dim=1).unflatten(0, (groups, each))
            moments = (shares @ entries.moments.flatten(2)).flatten(0, 1).unflatten(1, entries.moments.shape[2:])
            densities = (shares @ entries.densities.flatten(2)).flatten(0, 1).unflatten(1, entries.densities.shape[2:])
            level = self._level(features, moments)
            rows, columns = features.coarse.shape[-2:]
            heard = _attend(
                self.topic_scale.exp()[:, None, None] * _unit_keys(self.ask(features.coarse), _LISTENERS),
                entries.topics,
                entries.told,
                self.nearness.exp(),
                _places(rows, columns, likeness.device),
                likeness,
            )
            heard = heard.mT.flatten(1, 2).unflatten(2, (rows, columns))
            if 0 < most < size and batch == 1:
                likeness, chosen = likeness.topk(most, dim=1)
                entries = entries._replace(keys=entries.keys[:, chosen[0]], values=entries.values[:, chosen[0]])
            height, width = (side // _PATCH for side in features.embedding.shape[-2:])
            carried = _attend(
                self.key_scale.exp()[:, None, None] * features.keys,
                entries.keys,
                entries.values[:, :, None].expand(-1, -1, _HEADS, -1, -1),
                self.preferences.exp(),
                _places(height, width, likeness.device),
                likeness,
                every=_TAUGHT if self.training else 1,
            )
        carried = functional.pixel_shuffle(carried.mT.unflatten(3, (height, width)).flatten(1, 2), _PATCH)
        known = present[:, None, None, None]
        return Evidence(moments, carried * known, densities, level, heard * known, present.float())

    def _level(self, features: Features, moments: Tensor) -> Tensor:
        """Find the score, of the classifier that a context makes, that as many pixels exceed as its masks cover."""
        with torch.no_grad():
            factors = _regress(_mean(moments[:, 0]), _mean(moments[:, 1]), self.log_ridge[2].exp())
            scores = (factors[:, None] @ features.sparse.flatten(2))[:, 0]
            covered = (moments[:, 0, -1, -1] * scores.shape[1]).long().clamp(1, scores.shape[1] - 1)
            return scores.sort(dim=1, descending=True).values.gather(1, covered[:, None])[:, 0]

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
            moments = x.new_zeros((batch, 2, *features.everywhere.shape[1:]))
            nothing, zeros = x.new_zeros(0), x.new_zeros(batch)
            carried = x.new_zeros((batch, _HEADS, height // 2, width // 2))
            evidence = Evidence(moments, carried, nothing, zeros, nothing, zeros)
        with without_autocast(x.device):
            halved = functional.avg_pool2d(x, 2)
            scores, valid = x.new_zeros((batch, _SCORES, height // 2, width // 2)), x.new_zeros((batch, _SCORES))
            if self.config.ridge:
                scores, valid = self._classify(features, halved, has_previous, evidence)
            paths = x.new_zeros((batch, 3 * _TERRAINS, *scores.shape[2:]))
            if self.config.paths:
                best = torch.where(valid[:, 3, None, None] > 0, scores[:, 3], scores[:, 0]).detach()
                paths = measure_paths(halved, torch.sigmoid(3.0 * best))
            flags = torch.stack([valid[:, 0], has_previous, evidence.present], dim=1)[..., None, None]
            compared = x.new_zeros((batch, _COMPARED, *scores.shape[2:]))
            if self.config.compared:
                compared = compare_with_prompts(features.filtered, halved)
            exampled = x.new_zeros((batch, _EXAMPLED, *scores.shape[2:]))
            if len(evidence.densities):
                beside = (scores[:, 2:3] - evidence.level[:, None, None, None]).clamp(-3.0, 3.0)
                alike = compare_densities(evidence.densities, features.filtered)
                exampled = torch.cat([alike, beside], dim=1) * evidence.present[:, None, None, None]
            clamped = scores.clamp(-3.0, 3.0)
            inputs = torch.cat(
                [
                    functional.pixel_unshuffle(x[:, :PREVIOUS_LOGITS], 2),
                    functional.pixel_unshuffle(torch.tanh(0.25 * previous), 2),
                    clamped,
                    paths,
                    evidence.carried,
                    flags.expand(-1, -1, height // 2, width // 2),
                    compared,
                    exampled,
                ],
                dim=1,
            ).contiguous(memory_format=torch.channels_last)
            start = (clamped * self.score_gain[None, :, None, None]).sum(dim=1, keepdim=True)
        x = self.enter(inputs)
        skips: list[Tensor] = []
        for index, mix in enumerate(self.mixes):
            if index > 0:
                x = self.downs[index - 1](x)
            if self.config.fused:
                x = x + features.levels[index]
            if index == 3 and len(evidence.heard):
                x = x + self.hear(evidence.heard) * evidence.present[:, None, None, None]
            x = mix(functional.relu(x))
            skips.append(x)
        with without_autocast(x.device):
            best = torch.cat([evidence.carried, clamped[:, 2:]], dim=1).amax(dim=(2, 3))  # what speaks most for it
            pooled = torch.cat([x.float().mean(dim=(2, 3)), x.float().amax(dim=(2, 3)), best], dim=1)
            presence = self.appears(pooled)[:, 0]
        for index in range(len(self.ups) - 1, -1, -1):
            x = self.ups[index](functional.relu(_doubled(self.narrow[index](x)) + skips[index]))
        logits = functional.pixel_shuffle(self.leave(x).float() + start, 2)
        return Output(logits, presence, scores, valid)

    def _classify(
        self, features: Features, halved: Tensor, has_previous: Tensor, evidence: Evidence
    ) -> tuple[Tensor, Tensor]:
        """Classify every pixel by what is labelled in the image and in the context; scores and which are valid."""
        everywhere, context, present = features.everywhere, evidence.moments, evidence.present
        strokes = _stroke_moments(features.embedding, halved[:, POSITIVE : NEGATIVE + 1])
        box = halved[:, BOX : BOX + 1, ::2, ::2]
        previous = torch.sigmoid(halved[:, PREVIOUS_LOGITS : PREVIOUS_LOGITS + 1, ::2, ::2])
        has_box = box.amax(dim=(2, 3), keepdim=True)
        if has_box.any() or has_previous.any():
            inner = _moments(features.sparse, torch.cat([box, previous], dim=1))
            total = everywhere[:, None] * previous[0].numel()
            outer = total * torch.cat([has_box, torch.ones_like(has_box)], dim=1) - inner
        else:
            inner = outer = strokes.new_zeros((len(box), 2, *strokes.shape[-2:]))
        boxed = 4.0 * _BOX_WEIGHT * torch.stack([inner[:, 0], outer[:, 0]], dim=1)
        inside, outside = (_mean(one) for one in (strokes + boxed).unbind(dim=1))
        has_inside = (strokes + boxed)[:, 0, -1, -1].gt(1e-6).float()
        background, by_previous, by_strokes = self.log_prior.exp()
        use, known = (by_previous * has_previous)[:, None, None], present[:, None, None]
        outside = outside + background * everywhere
        context_in, context_out = _mean(context[:, 0]), _mean(context[:, 1])
        pairs = [
            (inside, outside),
            (inside + use * _mean(inner[:, 1]), outside + use * _mean(outer[:, 1])),
            (context_in, context_out),
            (known * context_in + by_strokes * inside, known * context_out + by_strokes * outside),
        ]
        has_example = present * (context[:, 0, -1, -1] > 1e-6)
        valid = torch.stack(
            [has_inside, torch.maximum(has_inside, has_previous), has_example, torch.maximum(has_example, has_inside)],
            dim=1,
        )
        first, second = (torch.stack(part, dim=1) for part in zip(*pairs, strict=True))
        factors = _regress(first, second, self.log_ridge.exp()[:, None, None])
        scores = factors @ features.embedding.flatten(2)
        return scores.unflatten(2, features.embedding.shape[-2:]) * valid[..., None, None], valid

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


def _places(height: int, width: int, device: torch.device) -> Tensor:
    """Places of a map, (height width, 2), from -0.5 to 0.5."""
    rows, columns = ((torch.arange(n, device=device) + 0.5) / n - 0.5 for n in (height, width))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)


def _unit_keys(x: Tensor, heads: int) -> Tensor:
    """Bring maps (B, heads * K, h, w) to keys (B, heads, h w, K), of length one around their mean."""
    keys = x.float().unflatten(1, (heads, -1)).flatten(3).mT
    return functional.normalize(keys - keys.mean(dim=2, keepdim=True), dim=-1)


def _attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    preference: Tensor,
    places: Tensor,
    likeness: Tensor,
    *,
    every: int = 1,
) -> Tensor:
    """Attend from places of targets (B, heads, P, K) to those of entries (G, S, heads, P, K); (B, heads, P, n).

    Nearer places are preferred, as strongly as a head wants, and entries that are more alike: both are products of
    further channels of queries and keys. Gradients flow through one of `every` places.
    """
    groups, size, heads, patches = keys.shape[:4]
    split, preference = (groups, len(queries) // groups), preference[:, None, None]
    queries = torch.cat(
        [
            queries,
            (2.0 * preference * places).expand(len(queries), -1, -1, -1),
            queries.new_ones((*queries.shape[:3], 1)),
            likeness.clamp(min=-_FAR)[:, None, None].expand(-1, heads, patches, -1),  # of the entry keys are of
        ],
        dim=-1,
    )
    queries = queries.unflatten(0, split).transpose(1, 2).flatten(2, 3)
    there = torch.cat([places.expand(heads, -1, -1), -preference * places.square().sum(dim=-1, keepdim=True)], dim=-1)
    own = torch.eye(size, device=keys.device).repeat_interleave(patches, dim=0).expand(groups, heads, -1, -1)
    there = there.repeat(1, size, 1).expand(groups, -1, -1, -1)
    keys = torch.cat([keys.transpose(1, 2).flatten(2, 3), there, own], dim=-1)
    values, count = values.transpose(1, 2).flatten(2, 3), values.shape[-1]
    width = max(keys.shape[-1], count)  # the fast way wants them alike
    queries, keys, values = (functional.pad(one, (0, width - one.shape[-1])) for one in (queries, keys, values))
    attend = functional.scaled_dot_product_attention
    if every > 1 and torch.is_grad_enabled():
        # Differentiating takes six times as long as computing, and some of the patches teach as much as all.
        with torch.no_grad():
            found = attend(queries, keys, values, scale=1.0)
        taught = torch.arange(every // 2, queries.shape[2], every, device=queries.device)
        found = found.index_copy(2, taught, attend(queries[:, :, taught], keys, values, scale=1.0))
    else:
        found = attend(queries, keys, values, scale=1.0)
    return found[..., :count].unflatten(2, (split[1], patches)).transpose(1, 2).flatten(0, 1)


def _regress(inside: Tensor, outside: Tensor, ridge: Tensor) -> Tensor:
    """Regress 1 inside and -1 outside, both alike in weight, on their moments (..., d + 1, d + 1); (..., d + 1)."""
    penalty = torch.ones(inside.shape[-1], device=inside.device)
    penalty[-1] = 1e-2
    matrix = inside + outside + torch.diag(penalty) * ridge
    return torch.linalg.solve(matrix, inside[..., -1:] - outside[..., -1:])[..., 0]


def _doubled(x: Tensor) -> Tensor:
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def _local(image: Tensor) -> Tensor:
    """Describe pixels at 1/2: the four of each place, its differences to two surroundings, and top-hats.

    A top-hat is what is left of thin and small structures, the bright positive, the dark negative.
    """
    halved = functional.avg_pool2d(image, 2)
    differences = [4.0 * (halved - local_mean(halved, window)) for window in _LOCAL_WINDOWS]
    hats = [6.0 * functional.avg_pool2d(top_hat(image, window), 2) for window in _TOP_HATS]
    return torch.cat([functional.pixel_unshuffle(image, 2) - 0.5, *differences, *hats], dim=1).contiguous(
        memory_format=torch.channels_last
    )


def _filters(local: Tensor) -> Tensor:
    """Make of `_local`'s channels what pixels are compared by, (B, 6, h, w) in [0, 1]."""
    image = local[:, :4].mean(dim=1, keepdim=True) + 0.5
    mean = local_mean(image, 5)
    spread = (local_mean(image.square(), 5) - mean.square()).clamp(min=0.0).sqrt()
    return torch.cat([image, 0.5 + 0.5 * local[:, 4:], 3.0 * spread], dim=1).clamp(0.0, 1.0)


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


@torch.no_grad()
def measure_paths(halved: Tensor, score: Tensor) -> Tensor:
    """Measure shortest paths to the prompts over the image, over a score (B, h, w) in [0, 1] and straight.

    A convolutional network would need as many layers as a path has pixels (geodesic segmentation: Bai and Sapiro 2007;
    as channels: Wang et al. 2018, DeepIGeoS). Where two strokes run side by side, the border lies between them, however
    strong another edge is: that is what straight distances tell.

    Args:
        halved: (B, 5, h, w), channels as in `scribblesegment.models.encoding`, at 1/2.
        score: Of the ridge classifier.

    Returns:
        (B, 9, h, w): for each of the three, nearness of positive prompts in [0, 1], nearness of negative ones, and
        which of the two is nearer in [-1, 1]; 0 where nothing of the kind is drawn.
    """
    batch, _, height, width = halved.shape
    box, positive, negative = halved[:, BOX], halved[:, POSITIVE], halved[:, NEGATIVE]
    outside = (box.amax(dim=(1, 2), keepdim=True) - box).clamp(min=0.0)
    negative = torch.maximum(negative, torch.where(positive > 0.0, 0.0, outside))
    seeds = torch.stack([positive, negative], dim=1) > _SEED
    seeds = seeds & ~seeds.flip(1)  # a pixel that both claim says nothing about which of them is near
    terrains = torch.stack([halved[:, IMAGE], score], dim=1)
    distances = torch.where(seeds[:, None], 0.0, _FAR).repeat(1, _TERRAINS, 1, 1, 1)  # (B, T, 2, h, w)
    distances = distances.permute(4, 0, 1, 2, 3).contiguous()  # the axis swept first, so that its slices lie together
    costs = [_step_costs(terrains.permute(axes)) for axes in ((3, 0, 1, 2), (2, 0, 1, 3))]
    for _ in range(_SWEEPS):
        for steps in costs:
            _sweep(distances, steps)
            distances = distances.permute(4, 1, 2, 3, 0).contiguous()
    distances = distances.permute(1, 2, 3, 4, 0)
    reaches = torch.tensor(_REACHES, device=halved.device)[:, None, None, None]
    near = torch.exp(-distances / reaches)
    to_positive, to_negative = distances[:, :, 0], distances[:, :, 1]
    known = (distances < _FAR / 2).all(dim=2)
    nearer = torch.where(known, (to_negative - to_positive) / (to_negative + to_positive + 1e-3), 0.0)
    return torch.cat([near, nearer[:, :, None]], dim=2).reshape(batch, 3 * _TERRAINS, height, width)


def _step_costs(terrains: Tensor) -> Tensor:
    """Costs (n - 1, B, 3, 1, m) of steps along the first axis of terrains (n, B, 2, m), and of the flat one."""
    steps = _STEP_COST + (terrains[1:] - terrains[:-1]).abs()
    flat = torch.full_like(steps[:, :, :1], 1.0 / len(terrains))
    return torch.cat([steps, flat], dim=2)[:, :, :, None]


def _sweep(distances: Tensor, steps: Tensor) -> None:
    """Let every place be reached along the first axis, from both sides; in place."""
    slices, costs = distances.unbind(0), steps.unbind(0)
    for index in range(1, len(slices)):
        torch.minimum(slices[index], slices[index - 1] + costs[index - 1], out=slices[index])
    for index in range(len(slices) - 2, -1, -1):
        torch.minimum(slices[index], slices[index + 1] + costs[index], out=slices[index])
