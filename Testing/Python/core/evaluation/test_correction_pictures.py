from __future__ import annotations

import numpy as np
import pytest
from correction_study import TASK, tiny_study, write_network, write_shapes

from scribblesegment.errors import ConfigError
from scribblesegment.evaluation.correction_methods import Variant
from scribblesegment.evaluation.correction_pictures import Frame, correction_frames, write_examples, write_frames
from scribblesegment.evaluation.correction_study import Study, list_jobs
from scribblesegment.evaluation.correction_tasks import read_task

PNG = b"\x89PNG"


@pytest.fixture
def study(tmp_path):
    config = tiny_study(Variant("refinement", options={"layers": 1, "iterations": 3}))
    return Study(config, write_network(tmp_path / "networks"))


@pytest.fixture
def jobs(study, tmp_path):
    return list_jobs(study.config.experiments[0], {"shapes": read_task(write_shapes(tmp_path), TASK)})


def test_the_frames_show_the_way_from_the_network_to_the_last_interaction(study, jobs):
    frames = correction_frames(jobs[0].image.labels, list(study.rounds(jobs[0])), (1, 2))
    assert [frame.title for frame in frames] == [
        "image",
        "truth",
        "network",
        "after 1 interaction",
        "after 2 interactions",
    ]
    assert (frames[2].strokes < 0).all()
    assert (frames[3].strokes >= 0).any()
    assert frames[4].note.startswith("Dice 0.")


def test_every_task_gets_its_picture(study, jobs, tmp_path):
    (path,) = write_examples(tmp_path, study, jobs)
    assert path.name == "refinement_example_shapes.png"
    content = path.read_bytes()
    assert content.startswith(PNG)
    assert 5_000 < len(content) < 200_000


def test_an_image_without_anything_on_it_is_shown_whole(tmp_path):
    write_frames(tmp_path / "a.png", np.zeros((16, 16), np.float32), [Frame("image")], ("background", "disc"))
    assert (tmp_path / "a.png").read_bytes().startswith(PNG)


def test_what_cannot_be_drawn_is_refused(tmp_path):
    image = np.zeros((16, 16), np.float32)
    with pytest.raises(ConfigError):
        write_frames(tmp_path / "a.png", image, [], ("background", "disc"))
    with pytest.raises(ConfigError):
        write_frames(tmp_path / "a.png", image, [Frame("image")], [str(n) for n in range(9)])
    assert not (tmp_path / "a.png").exists()
