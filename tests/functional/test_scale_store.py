"""comics scale with an object store: moto's, which fails now and then, and refuses a bucket."""

import contextlib
import itertools
import os
import threading
from pathlib import Path

import pytest
from fake_scanner import rows

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = ROOT / "tests" / "processes"
FORBIDDEN = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
BUSY = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


class FailingStore:
    """A WSGI application: S3 that is busy for every ``busy_every``-th request."""

    def __init__(self, application):
        self._application, self._count = application, itertools.count(1)
        self.busy_every = 0
        self.refused = 0

    def __call__(self, environ, start_response):
        if environ["PATH_INFO"].startswith("/forbidden"):
            return _answer(start_response, "403 Forbidden", FORBIDDEN)
        if self.busy_every and next(self._count) % self.busy_every == 0:
            self.refused += 1
            return _answer(start_response, "503 Slow Down", BUSY)
        return self._application(environ, start_response)


def _answer(start_response, status, content):
    start_response(status, [("Content-Type", "application/xml")])
    return [content]


@pytest.fixture(scope="module")
def store():
    """The store, and the "?" of its addresses."""
    pytest.importorskip("pyarrow", reason='pip install "comics-forensics[scale]"')
    server = pytest.importorskip("moto.server", reason="moto is not installed")
    from werkzeug.serving import make_server

    application = FailingStore(server.DomainDispatcherApplication(server.create_backend_app))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(PROCESSES), str(ROOT)]))
        serving = make_server("127.0.0.1", 0, application, threaded=True)
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        application.query = (
            f"?endpoint_override=127.0.0.1:{serving.port}&scheme=http&region=us-east-1"
        )
        yield application
        serving.shutdown()
        thread.join()


@pytest.fixture
def bucket(store):
    """A bucket with ten pictures, and a file that is none."""
    from comics.scale.storage import file_system

    place = f"s3://pictures/{store.query}&allow_bucket_creation=true"
    system = file_system(place)
    system.create_dir("pictures")
    system.create_dir("results")
    for n in range(10):
        with system.open_output_stream(f"pictures/in/{n % 2}/{n:02}.jpg") as stream:
            stream.write(f"faces {n % 3}".encode())
    with system.open_output_stream("pictures/in/notes.txt") as stream:
        stream.write(b"none")
    return store


def request_of(store, output, *inputs, **more):
    from comics.scale.job import JobRequest

    return JobRequest(
        f"s3://{output}{store.query}", [f"s3://{name}{store.query}" for name in inputs],
        scanner_class="fake_scanner:FakeScanner", pause_s=0.01, shard_files=4, **more,
    )  # fmt: skip


def run(request):
    from comics.scale.engines.local import LocalEngine
    from comics.scale.job import run_job

    with contextlib.closing(LocalEngine(1)) as engine:
        return run_job(request, engine, lambda line: None)


def test_from_bucket_to_bucket_while_the_store_is_busy(bucket):
    from comics.scale.reader import ScaleOutput
    from comics.scale.storage import file_system

    bucket.busy_every = 5
    try:
        outcome = run(request_of(bucket, "results/job", "pictures/in"))
    finally:
        bucket.busy_every = 0
    assert bucket.refused > 5
    assert outcome.undone == 0 and outcome.summary["files"] == 10
    output = ScaleOutput(f"s3://results/job{bucket.query}")
    found = [
        (entry["file_name"], sum(len(faces) for _, faces in images))
        for entry, images in output.files()
    ]
    order = [*range(0, 10, 2), *range(1, 10, 2)]
    assert found == [(f"s3://pictures/in/{n % 2}/{n:02}.jpg", n % 3) for n in order]
    expected = rows(found[1][0], 2)["row"]["entry"]
    assert expected  # the same rows as of files of this machine, see tests/unit/scale
    from pyarrow import fs

    system = file_system(output.folder.root.place)
    infos = system.get_file_info(fs.FileSelector("results/job", recursive=True))
    assert not [info.path for info in infos if ".part" in info.base_name]


def test_a_store_that_stays_away_leaves_the_job_for_the_same_command(bucket, monkeypatch):
    from comics.scale import storage

    monkeypatch.setattr(storage, "TRIES", 2)
    monkeypatch.setattr(storage, "PAUSE_S", 0.01)
    request = request_of(bucket, "results/away", "pictures/in")

    class Away(Exception):
        """What ends the first run."""

    shards = []
    from comics.scale.plan import JobFolder

    finish = JobFolder.finish_shard

    def goes_away(self, shard, files, faces):
        shards.append(shard)
        if shard == 1 and len(shards) < 6:
            raise storage.StorageError("s3://results: cannot write: SERVICE_UNAVAILABLE")
        finish(self, shard, files, faces)

    monkeypatch.setattr(JobFolder, "finish_shard", goes_away)
    outcome = run(request)
    assert outcome.undone == 1 and "SERVICE_UNAVAILABLE" in outcome.reasons[0]
    assert shards == [0, 1, 2, 1, 1]  # three rounds
    shards += [9]
    outcome = run(request)
    assert outcome.undone == 0 and outcome.summary["files"] == 10 and shards[-1] == 1


def test_addresses_without_permission_are_told(bucket):
    from comics.scale.listing import ListingError
    from comics.scale.storage import StorageDenied

    with pytest.raises(StorageDenied, match="s3://forbidden/out.*cannot write: "):
        run(request_of(bucket, "forbidden/out", "pictures/in"))
    with pytest.raises(ListingError, match="s3://forbidden/in: cannot (read|list): "):
        run(request_of(bucket, "results/none", "forbidden/in"))


def test_what_is_not_in_a_bucket_is_told(bucket):
    from comics.scale.listing import ListingError

    with pytest.raises(ListingError, match="s3://pictures/nothing: no such file or folder"):
        run(request_of(bucket, "results/none", "pictures/nothing"))
