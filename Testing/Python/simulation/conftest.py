from __future__ import annotations

import hypothesis
import numpy as np
import pytest

# A shared or slow machine must not fail a property by its speed.
hypothesis.settings.register_profile("simulation", deadline=None)
hypothesis.settings.load_profile("simulation")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)
