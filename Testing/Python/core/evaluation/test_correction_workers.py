from __future__ import annotations

import json

import pytest
from correction_study import TASK, result, tiny_study, write_network, write_shapes

from scribblesegment.errors import ConfigError, FileFormatError
from scribblesegment.evaluation.correction_study import Study, list_jobs
from scribblesegment.evaluation.correction_tasks import read_task
from scribblesegment.evaluation.correction_workers import read_log, run_jobs


@pytest.fixture
def study(tmp_path):
    return Study(tiny_study(), write_network(tmp_path / "networks"))


@pytest.fixture
def jobs(study, tmp_path):
    return list_jobs(study.config.experiments[0], {"shapes": read_task(write_shapes(tmp_path), TASK)})


def figures(results):
    return [(entry.image_index, entry.shift, entry.interaction, entry.dice) for entry in results]


def test_finished_jobs_are_not_run_again(study, jobs, tmp_path, monkeypatch):
    log = tmp_path / "rounds.jsonl"
    first = run_jobs(study, jobs[:2], log)
    ran = []
    run = study.run
    monkeypatch.setattr(study, "run", lambda job: ran.append(job) or run(job))
    told = []
    every = run_jobs(study, jobs, log, progress=lambda fraction, _: told.append(fraction))
    assert ran == jobs[2:]
    assert told == [0.5, 1.0]
    assert figures(every)[: len(first)] == figures(first)
    assert figures(run_jobs(study, jobs, log)) == figures(every)


@pytest.mark.slow
def test_several_workers_give_the_same(study, jobs, tmp_path):
    alone = run_jobs(study, jobs, tmp_path / "one.jsonl")
    together = run_jobs(study, jobs, tmp_path / "two.jsonl", workers=2)
    assert figures(alone) == figures(together)


def test_a_line_that_was_broken_off_is_run_again(study, jobs, tmp_path):
    log = tmp_path / "rounds.jsonl"
    whole = run_jobs(study, jobs[:2], log)
    text = log.read_text(encoding="utf-8")
    log.write_text(text[: len(text) - 50], encoding="utf-8")
    assert len(read_log(log)) == 1
    assert figures(run_jobs(study, jobs[:2], log)) == figures(whole)
    assert len(read_log(log)) == 2


def test_values_that_are_no_numbers_survive(tmp_path):
    log = tmp_path / "rounds.jsonl"
    entry = result(g=float("nan"))
    row = {name: getattr(entry, name) for name in entry.__dataclass_fields__}
    log.write_text(json.dumps({"key": "a", "rounds": [row]}) + "\n", encoding="utf-8")
    assert repr(read_log(log)["a"]) == repr([entry])


def test_a_damaged_line_is_named(tmp_path):
    log = tmp_path / "rounds.jsonl"
    log.write_text('{"key": 1}\nmore\n', encoding="utf-8")
    with pytest.raises(FileFormatError, match="line 1"):
        read_log(log)
    with pytest.raises(FileFormatError, match="Cannot read"):
        read_log(tmp_path)


def test_there_is_at_least_one_worker(study, jobs, tmp_path):
    with pytest.raises(ConfigError, match="at least one worker"):
        run_jobs(study, jobs, tmp_path / "rounds.jsonl", workers=0)
