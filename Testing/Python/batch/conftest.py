from __future__ import annotations

import pytest
from batch_folders import BatchFolders

from scribblesegment.batch.records import FOLDER


@pytest.fixture
def folders(tmp_path) -> BatchFolders:
    made = BatchFolders(tmp_path)
    (made.output / FOLDER).mkdir(parents=True)
    return made
