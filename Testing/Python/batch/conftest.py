from __future__ import annotations

import hypothesis
import pytest
from batch_folders import BatchFolders

from scribblesegment.batch.records import FOLDER

# A shared or slow machine must not fail a property by its speed.
hypothesis.settings.register_profile("batch", deadline=None)
hypothesis.settings.load_profile("batch")


@pytest.fixture
def folders(tmp_path) -> BatchFolders:
    made = BatchFolders(tmp_path)
    (made.output / FOLDER).mkdir(parents=True)
    return made
