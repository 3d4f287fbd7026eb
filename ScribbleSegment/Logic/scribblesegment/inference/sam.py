"""ScribblePrompt-SAM behind a predictor: the image is encoded once, and each set of prompts costs the decoder alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from scribblesegment.inference.devices import ExecutionPlan, compute, computes_bfloat16, resolve_device
from scribblesegment.inference.predictor import Network
from scribblesegment.models.sam import ScribblePromptSAM, stroke_points

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from scribblesegment.data.prompts import Prompts


class SamNetwork(Network):
    """A `ScribblePromptSAM` on its device: the encoder in bfloat16 where that is computed in hardware.

    Its grid is that of the decoder's logits, so that they come out and go back in as they are.
    """

    def __init__(
        self, module: ScribblePromptSAM, *, device: str = "auto", plan: ExecutionPlan | None = None, **options: Any
    ) -> None:
        # Measuring in how many ways this network can be run would take minutes on a processor.
        plan = plan or ExecutionPlan(resolve_device(device))
        super().__init__(module, plan=plan, **{**options, "size": module.config.mask_size, "focus_size": 0})
        if computes_bfloat16(self.plan.device):
            self._prepared.image_encoder.to(torch.bfloat16)

    def encode_image(self, image: NDArray[np.float32]) -> torch.Tensor:
        """Compute what depends on the image alone, (size, size) on a grid."""
        return cast(torch.Tensor, compute(self._prepared.encode_image, self.plan, torch.from_numpy(image)[None, None]))

    def predict(self, features: torch.Tensor, prompts: Prompts, context: Any = None) -> NDArray[np.float32]:
        """Compute logits (size, size); several boxes count as the one around them."""
        strokes, signs = stroke_points(torch.from_numpy(np.array(prompts.scribbles)))
        clicks = torch.from_numpy(prompts.point_coords[:, ::-1] / self.size).float()
        points = torch.cat([clicks, strokes])
        labels = torch.cat([torch.from_numpy(np.array(prompts.point_labels)), signs]).long().to(self.plan.device)
        inputs = {"features": features, "points": points}
        if len(prompts.boxes):
            box = np.stack([prompts.boxes[:, 0].min(axis=0), prompts.boxes[:, 1].max(axis=0)])
            inputs["box"] = torch.from_numpy(box[:, ::-1] / self.size)
        if prompts.mask_input is not None:
            inputs["logits"] = torch.from_numpy(prompts.mask_input * np.float32(self.temperature))[None, None]

        def decode(*moved: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self._prepared.decode(labels=labels, **dict(zip(inputs, moved, strict=True)))
            return logits

        logits: NDArray[np.float32] = compute(decode, self.plan, *inputs.values())[0, 0].cpu().numpy()
        return logits / np.float32(self.temperature)
