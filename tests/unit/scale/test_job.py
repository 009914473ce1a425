"""Jobs on this machine, with a scanner that has no model: what is done when what goes wrong."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_scanner import PROVENANCE, log_of, read_rows, rows, write_files

from comics.scale.engines.local import LocalEngine
from comics.scale.job import JobRequest, SetupError
from comics.scale.listing import ListingError, list_inputs
from comics.scale.plan import JobError, JobFolder
from comics.scale.shard_worker import FATAL, ShardWorker
from comics.scale.storage import StorageDenied, StorageError

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are ended by signals")


@pytest.fixture
def pictures(tmp_path):
    """Ten files of 0, 1, 2, 0, ... faces."""
    return write_files(tmp_path / "in", {f"{n:02}.jpg": f"faces {n % 3}" for n in range(10)})


def names(output, table="files"):
    return [Path(row["file_name"]).name for row in read_rows(output, table)]


def test_every_file_has_a_row_and_every_face(do, pictures, tmp_path):
    outcome = do(tmp_path / "out", pictures, shard_files=3, workers=2)
    expected = [rows(f"{pictures}/{n:02}.jpg", n % 3) for n in range(10)]
    assert read_rows(tmp_path / "out", "files") == [each["row"] for each in expected]
    assert read_rows(tmp_path / "out", "faces") == [f for each in expected for f in each["faces"]]
    assert outcome.summary["files"] == 10 and outcome.summary["faces"] == 9
    assert outcome.summary["forged_face_found"] == 3 and outcome.undone == 0
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert told["summary"]["complete"] and told["provenance"]["weights_sha256"] == "0" * 64
    parts = sorted(os.listdir(tmp_path / "out" / "files"))
    assert parts == [f"part-{n:06}.parquet" for n in range(4)]
    assert not list((tmp_path / "out").rglob("*.part"))


def test_parts_do_not_depend_on_the_number_of_workers(do, pictures, tmp_path):
    for workers in (1, 3):
        do(tmp_path / f"out{workers}", pictures, shard_files=2, workers=workers)
    for part in (tmp_path / "out1").glob("f*/*.parquet"):
        assert (
            part.read_bytes()
            == (tmp_path / "out3" / part.relative_to(tmp_path / "out1")).read_bytes()
        )


def test_what_is_done_is_not_done_again(do, pictures, tmp_path):
    log = tmp_path / "log"
    for _ in range(2):
        do(tmp_path / "out", pictures, shard_files=4, scanner={"log": str(log)})
    assert len(log_of(log)) == 10
    (tmp_path / "out" / "files" / "part-000001.parquet").unlink()  # as after a crash
    outcome = do(tmp_path / "out", pictures, shard_files=4, scanner={"log": str(log)})
    assert [Path(name).name for name in log_of(log)[10:]] == [
        "04.jpg",
        "05.jpg",
        "06.jpg",
        "07.jpg",
    ]
    assert names(tmp_path / "out") == [f"{n:02}.jpg" for n in range(10)]
    assert outcome.files == 4


def test_files_that_came_later_do_not_move_the_shards(do, pictures, tmp_path):
    do(tmp_path / "out", pictures, shard_files=4)
    (tmp_path / "out" / "files" / "part-000002.parquet").unlink()
    write_files(pictures, {"00a.jpg": "faces 1"})
    do(tmp_path / "out", pictures, shard_files=4)
    assert names(tmp_path / "out") == [f"{n:02}.jpg" for n in range(10)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("kill", "ended by SIGKILL .too little memory, or killed from outside"),
        ("segv", "ended by SIGSEGV"),
        ("raise", "RuntimeError: what no file should do"),
    ],
)
def test_a_poison_file_is_quarantined_and_the_others_are_done(
    do, pictures, tmp_path, content, told
):
    write_files(pictures, {"05.jpg": content})
    outcome = do(tmp_path / "out", pictures, max_tries=2)
    found = read_rows(tmp_path / "out", "files")
    bad = found[5]
    assert bad["quarantined"] and bad["tries"] == 2 and bad["status"] == "failed"
    assert re.search(f"given up after 2 tries: .*{told}", bad["reason"])
    others = [row for n, row in enumerate(found) if n != 5]
    expected = [rows(f"{pictures}/{n:02}.jpg", n % 3)["row"] for n in range(10) if n != 5]
    assert others == expected
    assert outcome.summary["quarantined"] == 1 and outcome.undone == 0


def test_a_file_that_hangs_is_quarantined(do, pictures, tmp_path):
    write_files(pictures, {"03.jpg": "hang", "04.jpg": "slow 1.2"})
    do(tmp_path / "out", pictures, max_tries=1, stall_s=0.8)
    row = read_rows(tmp_path / "out", "files")[3]
    assert "no sign of life for 0.8 s" in row["reason"] and row["tries"] == 1


def test_a_broken_file_is_a_row_that_says_so(do, pictures, tmp_path):
    write_files(pictures, {"05.jpg": "broken"})
    outcome = do(tmp_path / "out", pictures)
    row = read_rows(tmp_path / "out", "files")[5]
    assert row["status"] == "failed" and row["reason"] == "broken" and not row["quarantined"]
    assert outcome.summary["failed"] == 1


def test_a_worker_that_goes_down_with_a_file_leaves_word_of_it(fake, pictures, tmp_path):
    """Poison that takes its worker along: the next ones go file by file, and know which it was."""
    write_files(pictures, {"05.jpg": "slow 30"})
    folder = JobFolder(str(tmp_path / "out"))
    request = JobRequest(str(tmp_path / "out"), [str(pictures)])
    files, shards = folder.write_plan(list_inputs(request.inputs), 10)
    folder.write_job({"shards": shards, "files": files})
    settings = {"output": str(tmp_path / "out"), "scanner_class": "fake_scanner:FakeScanner",
                "max_tries": 2, "scanner": {"log": str(tmp_path / "log")}}  # fmt: skip
    code = (
        "import json, sys; from comics.scale.shard_worker import ShardWorker; "
        "print(json.dumps(ShardWorker(json.loads(sys.argv[1])).work('files', 0)))"
    )
    for attempt in range(3):  # the first does them together, and nobody knows which file it was
        with subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(settings)], stdout=subprocess.PIPE
        ) as worker:
            _wait(lambda n=attempt: log_of(tmp_path / "log").count(f"{pictures}/05.jpg") > n)
            worker.send_signal(signal.SIGKILL)
    worker = ShardWorker(settings)
    outcome = worker.work("files", 0)
    worker.close()
    assert outcome["state"] == "done" and outcome["quarantined"] == 1
    row = read_rows(tmp_path / "out", "files")[5]
    assert row["reason"] == "given up after 2 tries: its worker went down"
    assert len(read_rows(tmp_path / "out", "files")) == 10


def test_a_killed_worker_leaves_no_process_and_no_files(fake, pictures, tmp_path):
    write_files(pictures, {"00.jpg": "slow 60"})
    folder = JobFolder(str(tmp_path / "out"))
    _, shards = folder.write_plan(list_inputs([str(pictures)]), 10)
    settings = {"output": str(tmp_path / "out"), "scanner_class": "fake_scanner:FakeScanner"}
    code = (
        "import json, sys; from comics.scale.shard_worker import ShardWorker; "
        "w = ShardWorker(json.loads(sys.argv[1])); print(w._scanner().pid, flush=True); "
        "w.work('files', 0)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(settings)], stdout=subprocess.PIPE, text=True
    ) as worker:
        pid = int(worker.stdout.readline())
        worker.kill()
    if sys.platform == "linux":
        _wait(lambda: not _runs(pid))
    assert list(tmp_path.glob("comics-scale-*"))
    ShardWorker(settings).close()
    assert not list(tmp_path.glob("comics-scale-*"))


def _runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _wait(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_another_version_of_the_package_ends_the_job_and_names_the_node(fake, tmp_path):
    settings = {"output": str(tmp_path), "scanner_class": "fake_scanner:FakeScanner",
                "version": "0.0.1"}  # fmt: skip
    worker = ShardWorker(settings)
    outcome = worker.work("files", 0)
    worker.close()
    assert outcome["state"] == FATAL
    assert outcome["reason"].startswith(socket.gethostname())
    assert "the job 0.0.1: install one version on all nodes" in outcome["reason"]


def test_another_model_on_a_node_ends_the_job(do, pictures, tmp_path):
    do(tmp_path / "out", pictures, shard_files=5)
    (tmp_path / "out" / "files" / "part-000001.parquet").unlink()
    other = {"weights_sha256": "1" * 64}
    settings = JobFolder(str(tmp_path / "out")).job()
    settings["provenance"] = PROVENANCE | other
    JobFolder(str(tmp_path / "out")).write_job(settings)
    with pytest.raises(SetupError, match="has another weights_sha256 than the job"):
        do(tmp_path / "out", pictures, shard_files=5)


def test_a_node_without_the_model_says_so_before_anything_is_written(do, pictures, tmp_path):
    with pytest.raises(SetupError, match="no model file"):
        do(tmp_path / "out", pictures, scanner={"refuse": "no model file: name one"})
    assert not list((tmp_path / "out").rglob("*.parquet"))


def test_a_full_disk_leaves_the_shard_for_the_same_command(do, pictures, tmp_path):
    write_files(pictures, {"05.jpg": "full"})
    told = []
    outcome = do(tmp_path / "out", pictures, shard_files=5, report=told.append)
    assert outcome.undone == 1 and "no space left for temporary files" in outcome.reasons[0]
    assert names(tmp_path / "out") == [f"{n:02}.jpg" for n in range(5)]
    assert not (tmp_path / "out" / "summary.json").exists()
    write_files(pictures, {"05.jpg": "faces 2"})
    assert do(tmp_path / "out", pictures, shard_files=5).undone == 0
    assert names(tmp_path / "out") == [f"{n:02}.jpg" for n in range(10)]
    assert not any(row["tries"] for row in read_rows(tmp_path / "out", "files"))


def test_a_job_of_other_settings_is_left_alone(do, pictures, tmp_path):
    do(tmp_path / "out", pictures)
    with pytest.raises(JobError, match="shard_files: 256 -> 5"):
        do(tmp_path / "out", pictures, shard_files=5)
    do(tmp_path / "out", pictures, shard_files=5, overwrite=True)
    assert len(os.listdir(tmp_path / "out" / "files")) == 2


def test_a_job_is_stopped_and_continued(do, pictures, tmp_path):
    write_files(pictures, {f"{n:02}.jpg": "slow 0.1" for n in range(10)})
    log = tmp_path / "log"
    outcome = do(
        tmp_path / "out", pictures, shard_files=2, scanner={"log": str(log)},
        stop=lambda: len(log_of(log)) > 3,
    )  # fmt: skip
    assert outcome.stopped and 0 < outcome.undone < 5
    assert do(tmp_path / "out", pictures, shard_files=2, scanner={"log": str(log)}).undone == 0
    assert names(tmp_path / "out") == [f"{n:02}.jpg" for n in range(10)]
    assert not any(row["tries"] for row in read_rows(tmp_path / "out", "files"))


def test_an_output_that_may_not_be_written_is_told_first(do, pictures, tmp_path, monkeypatch):
    from comics.scale import storage

    def denied(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storage, "write_bytes", denied)
    with pytest.raises(StorageDenied, match="probe: cannot write: permission denied"):
        do(tmp_path / "out", pictures)


def test_inputs_that_are_not_there_and_none_at_all_are_errors(do, tmp_path):
    with pytest.raises(ListingError, match="no such file or folder"):
        do(tmp_path / "out", tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(JobError, match="no picture or video in the inputs"):
        do(tmp_path / "out", tmp_path / "empty")


def test_listed_files_that_are_gone_are_rows_that_say_so(do, tmp_path):
    """The real scanner reports it; here the fake one fails, and the store says it of its own."""
    import fsspec

    fsspec.filesystem("memory").pipe("/job-absent/a.jpg", b"faces 1")
    listed = ["memory://job-absent/a.jpg", "memory://job-absent/gone.jpg"]
    outcome = do(tmp_path / "out", listed=listed)
    found = read_rows(tmp_path / "out", "files")
    assert [row["status"] for row in found] == ["ok", "failed"]
    assert "no such file" in found[1]["reason"] and outcome.summary["quarantined"] == 0


def test_a_store_that_stays_away_for_one_file_costs_that_file(do, tmp_path, monkeypatch):
    import fsspec

    store = fsspec.filesystem("memory")
    for n in range(3):
        store.pipe(f"/job-away/{n}.jpg", b"faces 1")
    opens = type(store)._open

    def fails(self, path, *arguments, **options):
        if path.endswith("1.jpg"):
            raise OSError("503 Slow Down")
        return opens(self, path, *arguments, **options)

    monkeypatch.setattr(type(store), "_open", fails)
    outcome = do(tmp_path / "out", "memory://job-away", max_tries=2)
    found = read_rows(tmp_path / "out", "files")
    assert outcome.undone == 0 and [row["status"] for row in found] == ["ok", "failed", "ok"]
    assert found[1]["quarantined"] and "503 Slow Down" in found[1]["reason"]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"shard_files": 0}, "shard_files must be 1 or more"),
        ({"clip_s": 0.2}, "too short"),
        ({"clip_s": 10.0, "scanner": {"max_fps": 0.25}}, "do not hold a whole number of frames"),
    ],
)
def test_numbers_out_of_their_range(more, told):
    with pytest.raises(ValueError, match=told):
        JobRequest("out", ["in"], **more)


def test_the_local_engine_needs_no_ray(do, pictures, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # importing it is an error
    assert do(tmp_path / "out", pictures, engine=LocalEngine(1)).undone == 0


def test_storage_errors_are_oserrors_that_commands_know():
    assert issubclass(StorageError, OSError)
