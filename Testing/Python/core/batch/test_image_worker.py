from __future__ import annotations

import errno

import numpy as np
import pytest
from batch_folders import BatchFolders, a_ball, a_context, write_context
from batch_networks import POISON, Failing, Threshold, load_threshold

from scribblesegment import read_labelmap, read_volume
from scribblesegment.batch import image_worker
from scribblesegment.batch.image_worker import ImageWorker, do_in_worker, is_current
from scribblesegment.batch.images import BatchImage
from scribblesegment.batch.job import TRIES, BatchJob, fingerprints
from scribblesegment.batch.network import weights_digest
from scribblesegment.batch.records import FOLDER, RecordFolder
from scribblesegment.batch.segmentation import BatchConfig
from scribblesegment.errors import FileFormatError, WeightsError


@pytest.fixture
def folders(tmp_path) -> BatchFolders:
    made = BatchFolders(tmp_path)
    (made.output / FOLDER).mkdir(parents=True)
    return made


def a_job(folders, *contexts, run="run", **changes) -> BatchJob:
    digest = weights_digest(folders.weights)
    values = {
        "run": run,
        "output": folders.output,
        "weights": str(folders.weights),
        "axis": None,
        "config": BatchConfig(),
        "device": "cpu",
        "threads": 1,
        "made_by": fingerprints(contexts or [a_context()], digest, axis=None, config=BatchConfig(), threads=1),
        "load": load_threshold,
        "contexts": (folders.context,),
    }
    return BatchJob(**(values | changes))


def a_worker(folders, *contexts, predictor=None, **options) -> ImageWorker:
    return ImageWorker(a_job(folders, *contexts, **options), predictor or Threshold(), contexts or [a_context()])


def an_image(folders, name="a.nrrd", structure=None, **options) -> BatchImage:
    return BatchImage(name, folders.add(name, structure, **options))


def test_a_result_lies_on_the_grid_of_its_image_with_the_names_of_the_structures(folders):
    image = an_image(folders, "sub/a.nrrd")
    record = a_worker(folders, a_context("Ball"), a_context("Rest", bright=False)).do(image)
    result = read_labelmap(folders.output / "sub" / "a.nrrd.seg.nrrd")
    assert record.status == "done"
    assert [segment.name for segment in result.segments] == ["Ball", "Rest"]
    assert np.array_equal(result.array == 1, a_ball())
    assert result.same_grid(read_volume(image.path))
    assert RecordFolder(folders.output).read("sub/a.nrrd") == record
    assert not RecordFolder(folders.output).was_left("sub/a.nrrd")


def test_a_volume_is_measured_in_millilitres(folders):
    (found,) = a_worker(folders).do(an_image(folders, spacing=(0.5, 2.0, 3.0))).structures
    assert found.volume_ml == pytest.approx(a_ball().sum() * 3.0 / 1000)
    assert found.area_mm2 is None
    assert found.slices == a_ball().any(axis=(1, 2)).sum()
    assert 0 < found.lowest_confidence <= found.mean_confidence <= 1


def test_a_picture_is_measured_in_square_millimetres(folders):
    (found,) = a_worker(folders).do(an_image(folders, "a.mha", a_ball()[4], spacing=(0.5, 2.0))).structures
    assert found.area_mm2 == pytest.approx(a_ball()[4].sum())
    assert found.volume_ml is None
    assert found.slices == 1


def test_a_structure_that_was_not_found_has_no_volume_and_no_confidence(folders):
    (found,) = a_worker(folders).do(an_image(folders, structure=np.zeros((9, 12, 14)))).structures
    assert (found.slices, found.volume_ml, found.mean_confidence, found.lowest_confidence) == (0, 0.0, None, None)


def test_what_was_done_meanwhile_is_not_done_again(folders):
    image, predictor = an_image(folders), Threshold()
    first = a_worker(folders).do(image)
    assert a_worker(folders, predictor=predictor, run="other").do(image) == first
    assert predictor.calls == []


def test_a_result_holds_only_for_the_image_and_job_it_was_made_from(folders):
    image, job = an_image(folders), a_job(folders)
    record = a_worker(folders).do(image)
    assert is_current(record, image, job)
    assert not is_current(record, image, a_job(folders, a_context("Other")))
    folders.add("a.nrrd", corner=7)
    assert not is_current(record, image, job)
    image.path.unlink()
    assert not is_current(record, image, job)


def test_a_result_that_was_removed_is_made_again(folders):
    image = an_image(folders)
    record = a_worker(folders).do(image)
    result = folders.output / image.result_name
    content = result.read_bytes()
    result.unlink()
    assert not is_current(record, image, a_job(folders))
    a_worker(folders).do(image)
    assert result.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "no content"), (b"NRRD0004\nnonsense", "Cannot read"), (None, "No such file|no such file")],
)
def test_a_damaged_image_is_told_in_one_line(folders, content, told):
    image = BatchImage("bad.nrrd", folders.images / "bad.nrrd")
    if content is not None:
        image.path.write_bytes(content)
    record = a_worker(folders).do(image)
    assert (record.status, record.traceback, record.structures) == ("failed", "", ())
    assert "\n" not in record.error
    assert any(one in record.error for one in told.split("|"))
    assert not (folders.output / image.result_name).exists()


def test_missing_memory_is_the_end_of_one_image_only(folders):
    worker = a_worker(folders, predictor=Failing(MemoryError()))
    assert "not enough memory" in worker.do(an_image(folders, "a.nrrd", value=POISON)).error
    assert worker.do(an_image(folders, "b.nrrd")).status == "done"


def test_a_defect_is_told_with_its_traceback(folders):
    record = a_worker(folders, predictor=Failing(ZeroDivisionError("what"))).do(an_image(folders, value=POISON))
    assert record.error == "ZeroDivisionError: what"
    assert "Traceback" in record.traceback
    assert "batch_networks.py" in record.traceback


def test_a_full_disk_ends_the_batch(folders, monkeypatch):
    def full(*args):
        raise FileFormatError("disk full") from OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(image_worker, "write_segmentation", full)
    with pytest.raises(FileFormatError, match="disk full"):
        a_worker(folders).do(an_image(folders))


def test_a_result_that_cannot_be_written_is_the_end_of_one_image_only(folders):
    image = an_image(folders)
    (folders.output / image.result_name).mkdir()
    assert "it is a folder" in a_worker(folders).do(image).error


def test_an_image_at_which_processes_keep_dying_is_given_up(folders):
    image, records, predictor = an_image(folders), RecordFolder(folders.output), Threshold()
    for _ in range(TRIES):
        records.begin(image.name, "run")
    record = a_worker(folders, predictor=predictor).do(image)
    assert record.status == "failed"
    assert f"{TRIES} worker processes died" in record.error
    assert predictor.calls == []
    # The next run tries again.
    assert a_worker(folders, run="next").do(image).status == "done"


def test_an_interrupt_is_not_held_against_the_image(folders):
    image = an_image(folders, value=POISON)
    with pytest.raises(KeyboardInterrupt):
        a_worker(folders, predictor=Failing(KeyboardInterrupt())).do(image)
    assert not RecordFolder(folders.output).was_left(image.name)


def test_a_worker_loads_once_for_each_run(folders, monkeypatch):
    loaded = []

    def load(weights, *, device, threads):
        loaded.append((weights, device, threads))
        return Threshold()

    monkeypatch.setattr(image_worker, "_loaded", None)
    for run in ("first", "first", "second"):
        job = a_job(folders, run=run, load=load)
        assert do_in_worker(job, an_image(folders, f"{len(loaded)}.nrrd")).status == "done"
    assert loaded == [(folders.weights, "cpu", 1)] * 2


def test_a_worker_without_the_output_folder_can_do_nothing(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(image_worker, "_loaded", None)
    with pytest.raises(FileFormatError, match="does not see the folder"):
        do_in_worker(a_job(folders, output=tmp_path / "elsewhere"), an_image(folders))


def test_a_worker_with_another_network_can_do_nothing(folders, monkeypatch):
    monkeypatch.setattr(image_worker, "_loaded", None)
    job = a_job(folders)
    folders.weights.write_bytes(b"others")
    with pytest.raises(WeightsError, match="another network"):
        do_in_worker(job, an_image(folders))


def test_a_worker_with_a_damaged_context_set_can_do_nothing(folders, monkeypatch):
    monkeypatch.setattr(image_worker, "_loaded", None)
    write_context(folders.context)
    folders.context.write_bytes(folders.context.read_bytes()[:100])
    with pytest.raises(FileFormatError, match=r"ball\.context\.zip"):
        do_in_worker(a_job(folders), an_image(folders))
