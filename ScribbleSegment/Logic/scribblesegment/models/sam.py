"""ScribblePrompt-SAM: the Segment Anything Model (Kirillov et al., ICCV 2023) trained for scribbles, clicks and boxes.

Source: ScribblePrompt, section 3.4 and appendix B.2. Parameter names are those of the published checkpoint (ViT-B). A
transformer encodes the image once; a decoder of two layers turns every set of prompts into masks. Scribbles are clicks
on all of their pixels, and of the three masks the one with the highest predicted IoU counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from scribblesegment.errors import ConfigError
from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE, PREVIOUS_LOGITS

TRAINED_SIDE = 128
"""Side of the images the network was trained on. Larger ones are reduced to it before they are enlarged again."""

_MEAN, _STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # red, green, blue from 0 to 255
_MASKS = 4  # one for clear prompts, which is not used here, and three for ambiguous ones
_DECODER_LAYERS = 2
_MASK_CHANNELS = 16


@dataclass(frozen=True)
class ScribblePromptSAMConfig:
    """Shape of a `ScribblePromptSAM`; ConfigError if it is impossible."""

    image_size: int = 1024  # side of the image in the encoder
    patch_size: int = 16
    width: int = 768  # of the encoder
    depth: int = 12
    heads: int = 12
    global_blocks: tuple[int, ...] = (2, 5, 8, 11)  # those that look at the whole image; others look at windows
    window: int = 14  # side of a window in patches
    prompt_width: int = 256  # of the decoder
    decoder_hidden: int = 2048
    decoder_heads: int = 8

    def __post_init__(self) -> None:
        object.__setattr__(self, "global_blocks", tuple(int(block) for block in self.global_blocks))
        numbers = {name: value for name, value in vars(self).items() if name != "global_blocks"}
        if min(numbers.values()) < 1:
            raise ConfigError(f"All sizes of the network must be positive, got {numbers}.")
        if self.image_size % self.patch_size or self.width % self.heads or self.prompt_width % (2 * self.decoder_heads):
            raise ConfigError(
                "patch_size must divide image_size, heads must divide width, and twice decoder_heads prompt_width; got "
                f"{numbers}."
            )

    @property
    def grid(self) -> int:
        """Side of the image in patches."""
        return self.image_size // self.patch_size

    @property
    def mask_size(self) -> int:
        """Side of the decoder's logits."""
        return 4 * self.grid


class ScribblePromptSAM(nn.Module):
    """Image and prompts to the logits of one structure."""

    def __init__(self, config: ScribblePromptSAMConfig | None = None) -> None:
        super().__init__()
        self.config = config or ScribblePromptSAMConfig()
        self.image_encoder = _ImageEncoder(self.config)
        self.prompt_encoder = _PromptEncoder(self.config.prompt_width, half_pixel=0.5 / self.config.image_size)
        self.mask_decoder = _MaskDecoder(self.config)

    def forward(self, x: Tensor) -> Tensor:
        """Predict logits (B, 1, H, W) from (B, 5, H, W), the channels of `scribblesegment.models.encoding`.

        Several boxes count as the one around them.
        """
        size, side = x.shape[-2:], self.config.mask_size
        features = self.encode_image(x[:, IMAGE : IMAGE + 1])
        before = functional.interpolate(x[:, PREVIOUS_LOGITS:], (side, side), mode="bilinear")
        decoded = []
        for index, one in enumerate(x):  # they differ in the number of points
            points, labels = stroke_points(one[POSITIVE : NEGATIVE + 1])
            inside = one[BOX].nonzero()
            box = torch.stack([inside.amin(dim=0), inside.amax(dim=0) + 1]) if len(inside) else None
            if box is not None:
                box = box.flip(-1) / box.new_tensor(size[::-1])
            logits = before[index : index + 1]
            decoded.append(
                self.decode(features[index : index + 1], points, labels, box, logits if logits.any() else None)
            )
        return self.enlarge(torch.cat(decoded), (size[0], size[1]))

    def enlarge(self, logits: Tensor, size: tuple[int, int]) -> Tensor:
        """Bring logits (B, 1, mask_size, mask_size) to (B, 1, H, W), by way of the encoder's size as published."""
        if logits.shape[-2:] == size:
            return logits
        side = self.config.image_size
        enlarged = functional.interpolate(logits, (side, side), mode="bilinear")
        return functional.interpolate(enlarged, size, mode="bilinear")

    def encode_image(self, image: Tensor) -> Tensor:
        """Compute what depends on images (B, 1, H, W) in [0, 1] alone: (B, prompt_width, grid, grid)."""
        if max(image.shape[-2:]) > TRAINED_SIDE:
            image = functional.interpolate(image, (TRAINED_SIDE, TRAINED_SIDE), mode="bilinear", antialias=True)
        side = self.config.image_size
        image = functional.interpolate(image, (side, side), mode="bilinear")
        mean, std = (image.new_tensor(values)[:, None, None] for values in (_MEAN, _STD))
        encoded: Tensor = self.image_encoder(((255.0 * image - mean) / std).to(self.image_encoder.pos_embed.dtype))
        return encoded.to(image.dtype)

    def decode(
        self,
        features: Tensor,
        points: Tensor,
        labels: Tensor,
        box: Tensor | None = None,
        logits: Tensor | None = None,
    ) -> Tensor:
        """Predict logits (1, 1, mask_size, mask_size) of one image from its features and prompts.

        Args:
            features: (1, prompt_width, grid, grid), from `encode_image`.
            points: (N, 2), pixels as (x / width, y / height).
            labels: (N,): 1 foreground, 0 background.
            box: (2, 2), first corner and last, like the points.
            logits: (1, 1, mask_size, mask_size) of the previous prediction.
        """
        grid = self.config.grid
        tokens = self.prompt_encoder.tokens(points, labels, box)
        dense = self.prompt_encoder.dense(logits, grid)
        masks, ious = self.mask_decoder(features + dense, self.prompt_encoder.places(grid), tokens[None])
        return masks[:, ious[0].argmax(), None]


def stroke_points(marks: Tensor) -> tuple[Tensor, Tensor]:
    """Turn positive and negative strokes (2, H, W) into the points (N, 2) and labels (N,) of `decode`.

    Larger images are reduced first, so that a stroke gives as many points as in training.
    """
    height, width = (min(side, TRAINED_SIDE) for side in marks.shape[-2:])
    negative, rows, columns = functional.adaptive_max_pool2d(marks, (height, width)).nonzero(as_tuple=True)
    return torch.stack([columns / width, rows / height], dim=-1).to(marks), 1 - negative


class _ImageEncoder(nn.Module):
    """A vision transformer of windows and, now and then, the whole image (Li et al., ECCV 2022)."""

    def __init__(self, config: ScribblePromptSAMConfig) -> None:
        super().__init__()
        width, out = config.width, config.prompt_width
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, config.patch_size, stride=config.patch_size)})
        self.pos_embed = nn.Parameter(torch.zeros(1, config.grid, config.grid, width))
        self.blocks = nn.ModuleList(
            _Block(width, config.heads, config.grid, 0 if index in config.global_blocks else config.window)
            for index in range(config.depth)
        )
        self.neck = nn.Sequential(
            nn.Conv2d(width, out, 1, bias=False),
            _ChannelNorm(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            _ChannelNorm(out),
        )

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed["proj"](image).permute(0, 2, 3, 1) + self.pos_embed  # (B, grid, grid, width)
        for block in self.blocks:
            x = block(x)
        encoded: Tensor = self.neck(x.permute(0, 3, 1, 2))
        return encoded


class _Block(nn.Module):
    """Attention in windows (of side `window`; 0 for the whole image), then a perceptron, each added to its input."""

    def __init__(self, width: int, heads: int, grid: int, window: int) -> None:
        super().__init__()
        self.window = window or grid
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn = _RelativeAttention(width, heads, self.window)
        self.mlp = _Perceptron(width, 4 * width, nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        side = self.window
        padded = functional.pad(self.norm1(x), (0, 0, 0, -width % side, 0, -height % side))
        windows = padded.unflatten(2, (-1, side)).unflatten(1, (-1, side)).transpose(2, 3)  # (B, n, m, side, side, C)
        attended = self.attn(windows.flatten(0, 2)).unflatten(0, (batch, *windows.shape[1:3]))
        x = x + attended.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :height, :width]
        return x + self.mlp(self.norm2(x))


class _RelativeAttention(nn.Module):
    """Attention with a learnt bias for each distance of rows and of columns."""

    def __init__(self, width: int, heads: int, side: int) -> None:
        super().__init__()
        self.heads, self.side = heads, side
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.rel_pos_h, self.rel_pos_w = (nn.Parameter(torch.zeros(2 * side - 1, width // heads)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        side, steps = self.side, torch.arange(self.side, device=x.device)
        distances = steps[:, None] - steps + side - 1
        rows, columns = self.rel_pos_h[distances], self.rel_pos_w[distances]  # (from, to, C)
        queries, keys, values = self.qkv(x).flatten(1, 2).unflatten(-1, (3, self.heads, -1)).permute(2, 3, 0, 1, 4)
        attended = []
        for query, key, value in zip(queries, keys, values, strict=True):  # all heads at once take a gigabyte
            placed = query.unflatten(1, (side, side))
            along_rows = torch.einsum("nhwc,hkc->nhwk", placed, rows)[..., None]
            along_columns = torch.einsum("nhwc,wkc->nhwk", placed, columns)[..., None, :]
            bias = (along_rows + along_columns).flatten(3).flatten(1, 2)
            query, key, value, bias = (part[:, None] for part in (query, key, value, bias))  # as its fast path wants
            attended.append(functional.scaled_dot_product_attention(query, key, value, attn_mask=bias)[:, 0])
        output: Tensor = self.proj(torch.cat(attended, dim=-1).unflatten(1, (side, side)))
        return output


class _RandomFeatures(nn.Module):
    """Random Fourier features (..., width) of places (..., 2) from 0 to 1."""

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, width // 2))

    def forward(self, places: Tensor) -> Tensor:
        angles = 2.0 * math.pi * ((2.0 * places - 1.0) @ self.positional_encoding_gaussian_matrix)
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class _PromptEncoder(nn.Module):
    """Points, boxes and previous logits as features."""

    def __init__(self, width: int, *, half_pixel: float) -> None:
        super().__init__()
        self.half_pixel = (
            half_pixel  # of the image in the encoder, by which the published code moves points and corners
        )
        self.pe_layer = _RandomFeatures(width)
        # Of a negative and a positive click, and of the two corners of a box.
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, width) for _ in range(4))
        self.not_a_point_embed, self.no_mask_embed = nn.Embedding(1, width), nn.Embedding(1, width)
        self.mask_downscaling = nn.Sequential(
            nn.Conv2d(1, _MASK_CHANNELS // 4, 2, stride=2),
            _ChannelNorm(_MASK_CHANNELS // 4),
            nn.GELU(),
            nn.Conv2d(_MASK_CHANNELS // 4, _MASK_CHANNELS, 2, stride=2),
            _ChannelNorm(_MASK_CHANNELS),
            nn.GELU(),
            nn.Conv2d(_MASK_CHANNELS, width, 1),
        )

    def places(self, grid: int) -> Tensor:
        """Features (1, width, grid, grid) of the image's patches."""
        centres = (torch.arange(grid, device=self.no_mask_embed.weight.device) + 0.5) / grid
        rows, columns = torch.meshgrid(centres, centres, indexing="ij")
        features: Tensor = self.pe_layer(torch.stack([columns, rows], dim=-1))
        return features.permute(2, 0, 1)[None]

    def tokens(self, points: Tensor, labels: Tensor, box: Tensor | None) -> Tensor:
        """Features (N, width) of points (N, 2) with labels (N,), and of a box (2, 2) if there is one."""
        kinds = torch.cat([cast(nn.Embedding, embedding).weight for embedding in self.point_embeddings])
        tokens = self.pe_layer(points + self.half_pixel) + kinds[labels]
        if box is not None:
            return torch.cat([tokens, self.pe_layer(box + self.half_pixel) + kinds[2:]])
        return torch.cat([tokens, self.not_a_point_embed.weight]) if len(points) else tokens

    def dense(self, logits: Tensor | None, grid: int) -> Tensor:
        """Features (1, width, grid, grid) of the previous logits."""
        if logits is None:
            return self.no_mask_embed.weight[:, :, None, None].expand(-1, -1, grid, grid)
        encoded: Tensor = self.mask_downscaling(logits)
        return encoded


class _MaskDecoder(nn.Module):
    """Tokens of prompts and masks and the image look at each other; each mask token gives a mask."""

    def __init__(self, config: ScribblePromptSAMConfig) -> None:
        super().__init__()
        width = config.prompt_width
        self.transformer = _TwoWayTransformer(width, config.decoder_heads, config.decoder_hidden)
        self.iou_token, self.mask_tokens = nn.Embedding(1, width), nn.Embedding(_MASKS, width)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose2d(width, width // 4, 2, stride=2),
            _ChannelNorm(width // 4),
            nn.GELU(),
            nn.ConvTranspose2d(width // 4, width // 8, 2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(_Head(width, width // 8) for _ in range(_MASKS))
        self.iou_prediction_head = _Head(width, _MASKS)

    def forward(self, image: Tensor, places: Tensor, prompts: Tensor) -> tuple[Tensor, Tensor]:
        """Give the logits (1, masks, mask_size, mask_size) and predicted IoUs (1, masks) of the ambiguous masks."""
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight])[None]
        tokens, pixels = self.transformer(image, places, torch.cat([own, prompts], dim=1))
        enlarged = self.output_upscaling(pixels.mT.unflatten(2, image.shape[-2:]))
        weights = torch.stack(
            [head(tokens[:, 1 + index]) for index, head in enumerate(self.output_hypernetworks_mlps)], dim=1
        )
        masks = (weights @ enlarged.flatten(2)).unflatten(2, enlarged.shape[-2:])
        return masks[:, 1:], self.iou_prediction_head(tokens[:, 0])[:, 1:]


class _TwoWayTransformer(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_TwoWayBlock(width, heads, hidden) for _ in range(_DECODER_LAYERS))
        self.final_attn_token_to_image = _Attention(width, width // 2, heads)
        self.norm_final_attn = nn.LayerNorm(width)

    def forward(self, image: Tensor, places: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        pixels, places = image.flatten(2).mT, places.flatten(2).mT
        x = tokens
        for index, layer in enumerate(self.layers):
            x, pixels = layer(x, pixels, tokens, places, first=index == 0)
        x = x + self.final_attn_token_to_image(x + tokens, pixels + places, pixels)
        return self.norm_final_attn(x), pixels


class _TwoWayBlock(nn.Module):
    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.self_attn = _Attention(width, width, heads)
        self.cross_attn_token_to_image = _Attention(width, width // 2, heads)
        self.cross_attn_image_to_token = _Attention(width, width // 2, heads)
        self.mlp = _Perceptron(width, hidden, nn.ReLU())
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(width) for _ in range(4))

    def forward(
        self, x: Tensor, pixels: Tensor, tokens: Tensor, places: Tensor, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        x = self.norm1(self.self_attn(x, x, x) if first else x + self.self_attn(x + tokens, x + tokens, x))
        x = self.norm2(x + self.cross_attn_token_to_image(x + tokens, pixels + places, pixels))
        x = self.norm3(x + self.mlp(x))
        pixels = self.norm4(pixels + self.cross_attn_image_to_token(pixels + places, x + tokens, x))
        return x, pixels


class _Attention(nn.Module):
    def __init__(self, width: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, width)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        projected = (self.q_proj(queries), self.k_proj(keys), self.v_proj(values))
        by_head = (one.unflatten(2, (self.heads, -1)).transpose(1, 2) for one in projected)
        output: Tensor = self.out_proj(functional.scaled_dot_product_attention(*by_head).transpose(1, 2).flatten(2))
        return output


class _Perceptron(nn.Module):
    def __init__(self, width: int, hidden: int, activation: nn.Module) -> None:
        super().__init__()
        self.lin1, self.lin2, self.activation = nn.Linear(width, hidden), nn.Linear(hidden, width), activation

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.lin2(self.activation(self.lin1(x)))
        return output


class _ChannelNorm(nn.Module):
    """Layer normalisation of the channels of images (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        normal = functional.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), self.weight, self.bias, eps=1e-6)
        return normal.permute(0, 3, 1, 2)


class _Head(nn.Module):
    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, out)])

    def forward(self, x: Tensor) -> Tensor:
        for index, layer in enumerate(self.layers):
            x = layer(functional.relu(x) if index else x)
        return x
