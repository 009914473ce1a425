"""A server that really listens: many clients, clients that leave, the end of the server."""

import concurrent.futures
import json
import socket
import tempfile
import threading
import time

import pytest

from comics.server import gate
from comics.server.app import build_app
from comics.server.limits import ServerLimits

httpx = pytest.importorskip("httpx2")


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Where uploads lie for a while."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def send(address, content, **options):
    files = {"file": ("a.png", content)}
    return httpx.post(f"{address}/api/detect", files=files, timeout=30, **options)


def wait_until(condition):
    for _ in range(1000):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come about")


def test_many_at_once_are_looked_at_one_by_one(predictor, listening, make_picture, folders):
    colours = [((220, 20, 20), 1), ((20, 20, 220), 0)] * 4
    predictor.delay_s = 0.02
    with listening(build_app(predictor, ServerLimits(queue=7))) as address:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda c: send(address, make_picture(c[0])), colours))
        assert httpx.get(f"{address}/healthz").json()["uploads"] == 0
    assert [a.status_code for a in answers] == [200] * 8
    labels = [a.json()["results"][0]["category_id"] for a in answers]
    assert labels == [label for _, label in colours]  # each its own
    assert predictor.most_at_once == 1
    assert list(folders.iterdir()) == []


def test_beyond_the_queue_they_are_sent_away(predictor, listening, make_picture):
    predictor.gate.clear()
    with listening(build_app(predictor, ServerLimits(queue=1))) as address:
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            first = pool.submit(send, address, make_picture())
            assert predictor.entered.wait(10)
            second = pool.submit(send, address, make_picture())
            held = lambda: httpx.get(f"{address}/healthz").json()["uploads"]  # noqa: E731
            wait_until(lambda: held() == 2)
            for size in (10, 3_000_000):  # also one that is larger than the socket's buffers
                away = send(address, b"x" * size)
                assert away.status_code == 503
                assert away.json()["error"]["code"] == "busy"
                assert int(away.headers["retry-after"]) > 0
            predictor.gate.set()
            assert first.result().status_code == second.result().status_code == 200
        assert held() == 0
        assert send(address, make_picture()).status_code == 200


def test_too_large_an_upload_gets_its_answer(predictor, listening):
    with listening(build_app(predictor, ServerLimits(upload_bytes=1_000_000))) as address:
        answer = send(address, b"x" * 1_900_000)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "too_many_bytes"
        assert httpx.get(f"{address}/healthz").json()["uploads"] == 0


def test_a_client_that_leaves_frees_its_place(predictor, listening, make_video, folders):
    predictor.gate.clear()
    app = build_app(predictor, ServerLimits(queue=0, video_fps=50))
    with listening(app) as address:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{address}/api/detect",
                files={"file": ("a.mp4", make_video(3, rate=50))},
                timeout=1,
            )
        wait_until(lambda: httpx.get(f"{address}/healthz").json()["uploads"] == 0)
        predictor.gate.set()
        wait_until(lambda: not list(folders.iterdir()))
    assert predictor.pictures < 150  # the rest of the video was not looked at


def test_a_client_that_leaves_while_it_sends(predictor, listening, folders, monkeypatch):
    with listening(build_app(predictor, ServerLimits(queue=0))) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /api/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            wait_until(lambda: httpx.get(f"{address}/healthz").json()["uploads"] == 1)
        wait_until(lambda: httpx.get(f"{address}/healthz").json()["uploads"] == 0)
    assert list(folders.iterdir()) == []


def test_a_slow_upload_ends(predictor, listening, monkeypatch):
    monkeypatch.setattr(gate, "DRAIN_S", 0.05)
    with listening(build_app(predictor, ServerLimits(upload_s=0.2))) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as connection:
            connection.sendall(
                b"POST /api/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            answer = b""
            while chunk := connection.recv(4096):  # until the server closes the connection
                answer += chunk
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 408")
    assert json.loads(body)["error"]["code"] == "upload_too_slow"


def test_the_end_of_the_server_lets_the_file_at_hand_finish(predictor, listening, make_picture):
    predictor.gate.clear()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with listening(build_app(predictor)) as address:
            answer = pool.submit(send, address, make_picture())
            assert predictor.entered.wait(10)
            threading.Timer(0.3, predictor.gate.set).start()
        assert answer.result().status_code == 200
    with pytest.raises(httpx.ConnectError):
        httpx.get(address)


def test_a_file_that_takes_too_long_does_not_hold_up_the_end(
    predictor, listening, make_video, folders
):
    predictor.delay_s = 0.1
    app = build_app(predictor, ServerLimits(video_fps=50))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        with listening(app, grace_s=1) as address:
            content = make_video(20, rate=50, size=(16, 16))
            files = {"file": ("a.mp4", content)}
            answer = pool.submit(httpx.post, f"{address}/api/detect", files=files, timeout=30)
            assert predictor.entered.wait(10)
        assert answer.result().status_code == 503
        assert answer.result().json()["error"]["code"] == "shutting_down"
    assert predictor.pictures < 500
    wait_until(lambda: not list(folders.iterdir()))
