"""Tests of the network's input channels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from scribblesegment.models.encoding import BOX, IMAGE, NEGATIVE, POSITIVE, PREVIOUS_LOGITS, encode_prompts


def test_the_published_encoding_is_reproduced(shared_dir: Path) -> None:
    vectors = {
        name: torch.tensor(value)
        for name, value in np.load(shared_dir / "golden" / "scribbleprompt_prompt_encoding.npz").items()
    }
    encoded = encode_prompts(
        vectors["image"],
        scribbles=vectors["scribbles"],
        point_coords=vectors["point_coords_xy"].flip(-1),
        point_labels=vectors["point_labels"],
        boxes=vectors["boxes_xyxy"].reshape(2, 1, 2, 2).flip(-1),
        mask_input=vectors["mask_input"],
    )
    torch.testing.assert_close(encoded, vectors["network_input"], atol=1e-5, rtol=0)


def test_an_image_alone_leaves_the_other_channels_zero() -> None:
    image = torch.rand(2, 1, 6, 7)
    encoded = encode_prompts(image)
    assert encoded.shape == (2, 5, 6, 7)
    assert torch.equal(encoded[:, IMAGE], image[:, 0])
    assert not encoded[:, BOX:].any()


def test_clicks_join_the_scribbles_of_their_sign() -> None:
    scribbles = torch.zeros(1, 2, 5, 5)
    scribbles[0, 0, 0] = 0.25
    encoded = encode_prompts(
        torch.zeros(1, 1, 5, 5),
        scribbles=scribbles,
        point_coords=[torch.tensor([[0, 1], [4, 3]])],
        point_labels=[torch.tensor([1, 0])],
    )
    assert encoded[0, POSITIVE, 0].tolist() == [0.25, 1.0, 0.25, 0.25, 0.25]
    assert encoded[0, NEGATIVE].nonzero().tolist() == [[4, 3]]


def test_boxes_are_half_open_and_united() -> None:
    boxes = [torch.tensor([[[0, 0], [2, 1]], [[1, 0], [3, 2]]])]
    encoded = encode_prompts(torch.zeros(1, 1, 4, 4), boxes=boxes)
    assert encoded[0, BOX].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]]


def test_previous_logits_keep_their_values() -> None:
    logits = torch.randn(1, 1, 3, 3)
    encoded = encode_prompts(torch.zeros(1, 1, 3, 3), mask_input=logits)
    assert torch.equal(encoded[:, PREVIOUS_LOGITS], logits[:, 0])
