from __future__ import annotations

import hypothesis
import pytest
import torch

# A shared or slow machine must not fail a property by its speed.
hypothesis.settings.register_profile("models", deadline=None)
hypothesis.settings.load_profile("models")


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    torch.manual_seed(0)
