"""Real sockets whose clients are slow, silent, or too many."""

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from comics.server.app import build_app
from comics.server.limits import ServerLimits
from comics.server.uploads import UploadFolder, remove_left_folders

httpx = pytest.importorskip("httpx2")

LONG = 60.0
UPLOAD = (
    b"POST /api/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
    b'Content-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
)


@pytest.fixture
def connect():
    """Opens connections to an address; those that are left are closed at the end."""
    with contextlib.ExitStack() as opened:

        def open_one(address, sent=b""):
            host, port = address.removeprefix("http://").split(":")
            connection = socket.create_connection((host, int(port)), timeout=30)
            opened.enter_context(connection)
            connection.sendall(sent)
            return connection

        yield open_one


def all_of(connection):
    """What comes until the other side closes."""
    answer = b""
    with contextlib.suppress(ConnectionError):
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def healthy(address):
    return httpx.get(f"{address}/healthz", timeout=20).json()


def send(address, content):
    return httpx.post(f"{address}/api/detect", files={"file": ("a.png", content)}, timeout=60)


def test_half_open_connections_do_not_keep_others_out(predictor, listening, connect):
    """Ten times as many as there may be, and a header time that does not help."""
    limits = ServerLimits(queue=2, connections=20, header_s=LONG)
    with listening(build_app(predictor, limits), limits=limits) as address:
        held = []
        for number in range(200):
            held.append(connect(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Slow: "))
            if number % 50 == 49:
                assert healthy(address)["status"] == "ok"
        assert all_of(held[0]) == b""  # the first made room
        held[-1].sendall(b"1\r\n\r\n")  # the last is still heard
        assert held[-1].recv(100).startswith(b"HTTP/1.1 200")


@pytest.mark.slow
def test_five_hundred_half_open_connections_at_the_default_limits(predictor, listening, connect):
    with listening(build_app(predictor)) as address:
        for _ in range(500):
            connect(address, b"GET / HTTP/1.1\r\nX-Slow: ")
        assert healthy(address)["status"] == "ok"


def test_a_request_at_work_is_not_closed_for_idle_ones(predictor, listening, connect, make_picture):
    predictor.gate.clear()
    limits = ServerLimits(queue=2, connections=10)
    serving = listening(build_app(predictor, limits), limits=limits)
    with serving as address, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(send, address, make_picture())
        assert predictor.entered.wait(20)
        for _ in range(40):
            connect(address, b"GET /")
        assert healthy(address)["uploads"] == 1
        predictor.gate.set()
        assert answer.result().status_code == 200


def test_a_header_must_come_in_time_however_many_bytes_come(predictor, listening, connect):
    limits = ServerLimits(header_s=0.5)
    with listening(build_app(predictor, limits), limits=limits) as address:
        connection = connect(address, b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
        stopped = threading.Event()

        def dribble():
            with contextlib.suppress(OSError):
                while not stopped.wait(0.05):
                    connection.sendall(b"a")

        with ThreadPoolExecutor(1) as pool:
            pool.submit(dribble)
            answer = all_of(connection)
            stopped.set()
        assert answer == b"" or answer.startswith(b"HTTP/1.1 408")
        silent = connect(address)
        assert all_of(silent).startswith(b"HTTP/1.1 408")


def test_a_second_request_on_a_connection_must_come_in_time_too(predictor, listening, connect):
    limits = ServerLimits(header_s=0.5)
    with listening(build_app(predictor, limits), limits=limits) as address:
        connection = connect(address, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /hea")
        answer = all_of(connection)
        assert answer.count(b"HTTP/1.1 200") == 1 and b'"status":"ok"' in answer


def test_requests_one_after_the_other_on_one_connection(predictor, listening):
    limits = ServerLimits(header_s=0.5)
    serving = listening(build_app(predictor, limits), limits=limits)
    with serving as address, httpx.Client() as client:
        for _ in range(4):
            assert client.get(f"{address}/healthz").status_code == 200
            time.sleep(0.2)  # together longer than a header may take


@pytest.mark.parametrize("pause_s", [None, 0.05])
def test_an_upload_that_brings_too_little_gives_its_place_up(
    predictor, listening, connect, pause_s
):
    limits = ServerLimits(queue=0, stall_s=0.5, upload_s=LONG)
    with listening(build_app(predictor, limits), limits=limits) as address:
        connection = connect(address, UPLOAD)
        stopped = threading.Event()

        def dribble():
            with contextlib.suppress(OSError):
                while pause_s and not stopped.wait(pause_s):
                    connection.sendall(b"a")

        with ThreadPoolExecutor(1) as pool:
            pool.submit(dribble)
            head, body = connection.recv(65536).split(b"\r\n\r\n", 1)
            stopped.set()
        assert head.startswith(b"HTTP/1.1 408")
        error = json.loads(body or connection.recv(65536))["error"]
        assert error["code"] == "upload_too_slow" and "16 KiB per second" in error["message"]
        assert healthy(address)["uploads"] == 0


def test_an_upload_as_slow_as_allowed_is_looked_at(predictor, listening, connect, make_picture):
    """Twice the rate that is asked for, longer than a window lasts."""
    limits = ServerLimits(queue=0, stall_s=0.5, upload_rate=2000.0)
    content = make_picture() + b"\0" * 6000
    end = b"\r\n--b--\r\n"
    head = UPLOAD.replace(
        b"100000", str(len(UPLOAD.split(b"\r\n\r\n", 1)[1] + content + end)).encode()
    )
    with listening(build_app(predictor, limits), limits=limits) as address:
        connection = connect(address, head)
        for start in range(0, len(content), 400):
            connection.sendall(content[start : start + 400])
            time.sleep(0.1)
        connection.sendall(end)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_an_answer_that_is_not_taken_frees_the_connection(listening, connect):
    size = 50_000_000  # more than the systems' buffers hold
    ended = threading.Event()

    async def large(scope, receive, send):
        if scope["type"] != "http":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            for _ in range(50):
                body = b"x" * (size // 50)
                await send({"type": "http.response.body", "body": body, "more_body": True})
            await send({"type": "http.response.body"})
        finally:
            ended.set()

    with listening(large, limits=ServerLimits(answer_s=0.5)) as address:
        connection = connect(address, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert ended.wait(20)
        assert len(all_of(connection)) < size


def test_what_a_killed_server_leaves_goes_at_the_next_start(
    predictor, listening, tmp_path, monkeypatch
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    program = (
        "import sys, tempfile, time; tempfile.tempdir = sys.argv[1]\n"
        "from comics.server.uploads import UploadFolder\n"
        "folder = UploadFolder(); (folder.path / 'upload').write_bytes(b'secret')\n"
        "print(folder.path, flush=True); time.sleep(300)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        left = process.stdout.readline().strip()
        (tmp_path / "comics-of-somebody-else").mkdir()
        own = UploadFolder()
        assert remove_left_folders() == 0  # all of them are in use, or not ours
    finally:
        process.kill()
        process.communicate()
    with listening(build_app(predictor)):
        names = {str(path) for path in tmp_path.iterdir()}
        assert left not in names and names == {
            str(own.path), str(tmp_path / "comics-of-somebody-else")
        }  # fmt: skip
    own.remove()
    assert not own.path.exists()
