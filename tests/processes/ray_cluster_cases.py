"""comics scale on a real Ray cluster of two nodes on this machine; workers and drivers are killed.

The scanner has no model (tests/processes/fake_scanner.py): what is tested is what lies around it.
"""

import contextlib
import inspect
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fake_scanner import log_of, read_rows, rows, write_files

pytest.importorskip("ray", reason='pip install "comics-forensics[scale]"')
pytest.importorskip("pyarrow", reason='pip install "comics-forensics[scale]"')

# Ray's own thread finds the cluster gone where its last node was taken down
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")

ROOT = Path(__file__).resolve().parents[2]
PROCESSES = ROOT / "tests" / "processes"
STORE_BYTES = 80 << 20  # of shared memory for each node; numbers of shards need next to none
STARTS = 3
PORTS = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port",
         "runtime_env_agent_port")  # fmt: skip
FAKE = {"scanner_class": "fake_scanner:FakeScanner", "pause_s": 0.01, "shard_files": 2}


def node():
    """Arguments of a node of one core, without what is not tested here."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in PORTS]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = {n: s.getsockname()[1] for n, s in zip(PORTS, sockets, strict=True)}
    unneeded = {"include_dashboard": False, "include_log_monitor": False, "no_monitor": True}
    return {"num_cpus": 1, "object_store_memory": STORE_BYTES, **unneeded, **ports}


def without_waiting(start):
    """Start a node with its agents' ports on disk. They are chosen before; still a node waits some
    seconds for its agents to write them, and gives up where these take longer to start.
    """
    signature = inspect.signature(start)

    def start_raylet(*values, **named):
        told = signature.bind(*values, **named).arguments
        for name in PORTS:
            path = Path(told["session_dir"], f"{name}_{told['node_id']}")
            path.write_text(str(told[name]))
        return start(*values, **named)

    return start_raylet


@pytest.fixture(scope="module")
def cluster():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(PROCESSES), str(ROOT)]))
        patch.delenv("RAY_ADDRESS", raising=False)
        from ray._private import services, utils, worker

        # Agents as of an installation without the dashboard: quicker to start
        patch.setattr(utils, "get_dashboard_dependency_error", lambda: ImportError("not wanted"))
        patch.setattr(services, "start_raylet", without_waiting(services.start_raylet))
        made = two_nodes()
        yield made
        worker.global_worker.node = None  # of a driver that has let go; Ray would not end its node
        made.shutdown()


def two_nodes():
    """A cluster; Ray gives a node half a minute, which a busy machine may need several times."""
    from ray.cluster_utils import Cluster

    for _ in range(STARTS):
        made = Cluster()
        try:
            made.add_node(**node())
            made.add_node(**node())
            return made
        except Exception as error:
            fault = error
            made.shutdown()
    return pytest.skip(f"no Ray cluster starts on this machine: {fault}")


@pytest.fixture
def pictures(tmp_path):
    """Sixteen files that take a moment each."""
    return write_files(tmp_path / "in", {f"{n:02}.jpg": "slow 0.1" for n in range(16)})


def request_of(tmp_path, pictures, **more):
    from comics.scale.job import JobRequest

    log = {"log": str(tmp_path / "log")}
    return JobRequest(str(tmp_path / "out"), [str(pictures)], scanner=log, **FAKE | more)


def check_rows(tmp_path, pictures):
    """Every file once, in its order, as one process would have it."""
    expected = [rows(f"{pictures}/{n:02}.jpg", 1) for n in range(16)]
    assert read_rows(tmp_path / "out", "files") == [each["row"] for each in expected]
    assert read_rows(tmp_path / "out", "faces") == [f for each in expected for f in each["faces"]]
    assert not list((tmp_path / "out").rglob("*.part"))


def test_workers_are_killed_and_no_row_is_lost_or_doubled(cluster, tmp_path, pictures):
    from comics.scale.engines.on_ray import RayEngine
    from comics.scale.job import run_job

    pids = []

    class Killing(RayEngine):
        """Ends the worker that is the first to have done something."""

        def run(self, settings, tasks):
            for outcome in super().run(settings, tasks):
                if outcome:
                    if not pids:
                        os.kill(outcome["pid"], signal.SIGKILL)
                    pids.append(outcome["pid"])
                yield outcome

    engine = Killing(cluster.address)
    try:
        assert engine.workers == 2  # one on each node
        outcome = run_job(request_of(tmp_path, pictures), engine, lambda line: None)
    finally:
        engine.close()
    assert outcome.undone == 0 and outcome.summary["files"] == 16
    assert len(set(pids)) == 3  # two, and one in the place of the first
    check_rows(tmp_path, pictures)


DRIVER = """
import sys
from comics.scale.engines.on_ray import RayEngine
from comics.scale.job import JobRequest, run_job
address, output, inputs, log = sys.argv[1:]
request = JobRequest(output, [inputs], scanner={"log": log},
                     scanner_class="fake_scanner:FakeScanner", pause_s=0.01, shard_files=2)
run_job(request, RayEngine(address), lambda line: None)
"""


def test_the_driver_is_killed_and_another_goes_on(cluster, tmp_path, pictures):
    from comics.scale.engines.on_ray import RayEngine
    from comics.scale.job import run_job

    words = [cluster.address, tmp_path / "out", pictures, tmp_path / "log"]
    with subprocess.Popen([sys.executable, "-c", DRIVER, *map(str, words)]) as driver:
        _wait(lambda: len(list((tmp_path / "out" / "files").glob("part-*"))) > 2)
        driver.kill()
    done = {path.name for path in (tmp_path / "out" / "files").glob("part-*")}
    before = len(log_of(tmp_path / "log"))
    engine = RayEngine(cluster.address)
    try:
        outcome = run_job(request_of(tmp_path, pictures), engine, lambda line: None)
    finally:
        engine.close()
    assert outcome.undone == 0
    check_rows(tmp_path, pictures)
    again = {Path(name).name for name in log_of(tmp_path / "log")[before:]}
    first = {f"{2 * int(part[5:11]) + n:02}.jpg" for part in done for n in (0, 1)}
    assert not again & first  # what was done when the driver went was not done again


def test_a_node_of_another_version_is_named_and_nothing_is_written(cluster, tmp_path, pictures):
    from comics.scale.engines.on_ray import RayEngine
    from comics.scale.job import SetupError, run_job

    package = tmp_path / "other" / "comics"
    package.mkdir(parents=True)
    real = ROOT / "comics"
    (package / "__init__.py").write_text(
        f"exec(open({str(real / '__init__.py')!r}).read())\n"
        f"__path__ = [{str(real)!r}]\n__version__ = '0.0.1'\n"
    )
    path = os.pathsep.join([str(package.parent), str(PROCESSES)])
    other = cluster.add_node(**node(), env_vars={"PYTHONPATH": path})
    engine = RayEngine(cluster.address)
    try:
        assert engine.workers == 3
        with pytest.raises(SetupError, match="runs comics 0.0.1, the job"):
            run_job(request_of(tmp_path, pictures), engine, lambda line: None)
    finally:
        engine.close()
        cluster.remove_node(other)
    assert not list((tmp_path / "out").rglob("summary.json"))


def test_a_cluster_that_is_not_there_is_told(tmp_path):
    from comics.scale.engines.on_ray import RayEngine, RayFault

    with pytest.raises(RayFault, match="no Ray cluster"):
        RayEngine("127.0.0.1:1")


def _wait(condition, seconds=240.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)
