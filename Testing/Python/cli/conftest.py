from __future__ import annotations

import os

import hypothesis
import numpy as np
import pytest

# A shared or slow machine must not fail a property by its speed; CI repeats the same examples in every run.
hypothesis.settings.register_profile("cli", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("cli")


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240229)
