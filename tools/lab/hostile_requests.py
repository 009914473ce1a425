#!/usr/bin/env python
"""Send a server of its own hostile requests from many clients at once, and say how it fared.

A `comics serve` is started on a free port of 127.0.0.1, with a temporary folder of its own; nothing
else is ever addressed. Requests are drawn from the kinds below, by --seed: pictures that lie about
their size, are cut, or are no pictures; forms, headers and HTTP that are broken; names and pages
that would like to run; clients that are silent, slow, gone, or do not take their answer; and honest
pictures among them. Meanwhile /healthz is asked every half second.

It is a fault if the server ends, does not answer /healthz within 5 seconds, answers a request with
500 or with anything that its kind does not allow, gives an honest picture another answer than
before, follows or runs anything that was sent, or leaves a file behind.

Exit code: 0 no fault; 1 faults, each named; 2 unusable arguments.

Examples:
  tools/lab/hostile_requests.py --output hostile --requests 1000 --clients 50
  tools/lab/hostile_requests.py --output hostile --requests 100 --clients 10 --half-open 0
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import os
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_REQUESTS, MOST_CLIENTS, MOST_HALF_OPEN, MOST_SECONDS = 20_000, 200, 2000, 3600
START_S, ANSWER_S, HEALTH_S = 300.0, 120.0, 5.0
EXIT_FAULTS, EXIT_ARGUMENTS = 1, 2
HOST = "127.0.0.1"
BOUNDARY = "b0undary"
MARKER = "executed"  # a file of this name in the server's folder: something ran
NAMES = (
    "a.png", "../../../../tmp/executed", "..\\..\\executed", "/etc/passwd", "a\x00b.png", "CON",
    "<script>alert(1)</script>.png", "$(touch executed).png", "; touch executed;.jpg", "=cmd().png",
    "\u202egnp.exe", "x" * 5000 + ".png", "", ".lock", "results", "a.mp4", "a.svg", "%2e%2e%2fa",
)  # fmt: skip
BUSY = 503  # always allowed: there are more clients than places
TRIES = 4  # of a client for which there is no place
REOPENED = 50  # half-open connections at most, five times a second
GONE = 0  # no answer: the client had left, or the connection was closed on it


@dataclass
class Account:
    """What was seen."""

    answers: Counter = field(default_factory=Counter)  # (kind, status)
    faults: list[str] = field(default_factory=list)
    health_s: list[float] = field(default_factory=list)
    most_kib: int = 0  # resident memory of the server, KiB
    seconds: float = 0.0


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="new or empty")
    parser.add_argument("--requests", type=int, default=200, help=f"up to {MOST_REQUESTS}")
    parser.add_argument("--clients", type=int, default=20, help=f"at once, up to {MOST_CLIENTS}")
    parser.add_argument(
        "--half-open",
        type=int,
        default=500,
        metavar="N",
        help="connections with half a header that are held all the while; one that the server "
        f"closes is opened again (default 500, up to {MOST_HALF_OPEN})",
    )
    parser.add_argument("--seconds", type=float, default=900, help="no request after it")
    parser.add_argument("--seed", type=int, default=0, help="of kinds, names and cuts")
    parser.add_argument("--weights", help="model file (default: the shipped one)")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run the tool; returns the exit code."""
    options = build_parser().parse_args(arguments)
    bounds = (
        (options.requests, 1, MOST_REQUESTS), (options.clients, 1, MOST_CLIENTS),
        (options.half_open, 0, MOST_HALF_OPEN), (options.seconds, 1, MOST_SECONDS),
    )  # fmt: skip
    if not all(low <= value <= high for value, low, high in bounds):
        print("hostile_requests.py: a number is out of range, see --help", file=sys.stderr)
        return EXIT_ARGUMENTS
    if options.output.exists() and any(options.output.iterdir()):
        print(f"hostile_requests.py: {options.output} is not empty", file=sys.stderr)
        return EXIT_ARGUMENTS
    temporary = options.output.resolve() / "temporary"
    temporary.mkdir(parents=True)
    allow_descriptors(options.clients + 2 * options.half_open + 100)
    account = Account()
    with server(options.output.resolve(), temporary, options.weights) as (process, port):
        assault(process, port, options, account)
        check_traces(process, port, options.output.resolve(), temporary, account)
        process.send_signal(signal.SIGTERM)
        code = process.wait(START_S)
        if code != 0:
            account.faults.append(f"the server ended with {code} after SIGTERM")
    left = [str(path.relative_to(temporary)) for path in temporary.rglob("*")]
    if left:
        account.faults.append(f"left behind: {left[:5]}")
    text = describe(account, options, (options.output / "log.txt").stat().st_size)
    print(text)
    (options.output / "account.txt").write_text(text + "\n", encoding="utf-8")
    return EXIT_FAULTS if account.faults else 0


def describe(account: Account, options: argparse.Namespace, log_bytes: int) -> str:
    """What was seen, in lines."""
    statuses = Counter()
    for (_, status), count in account.answers.items():
        statuses[status] += count
    health = sorted(account.health_s)
    lines = [
        f"{statuses.total()} requests from {options.clients} clients in {account.seconds:.0f} s, "
        f"with {options.half_open} half-open connections",
        "answers: " + counts(statuses.items()),
        f"/healthz: asked {len(health)} times, median {health[len(health) // 2]:.3f} s, "
        f"longest {health[-1]:.3f} s",
        f"memory of the server: at most {account.most_kib / 1024:.0f} MiB; log: {log_bytes} bytes",
    ]
    for kind in KINDS:
        own = [(status, n) for (name, status), n in account.answers.items() if name == kind]
        lines.append(f"  {kind:20} {counts(own)}")
    if account.faults:
        lines += [f"FAULTS: {len(account.faults)}", *account.faults[:50]]
    return "\n".join(lines)


def counts(statuses: Iterable[tuple[int, int]]) -> str:
    """ "200: 5, 413: 2"."""
    return ", ".join(f"{status or 'none'}: {n}" for status, n in sorted(statuses))


def allow_descriptors(wanted: int) -> None:
    """Let this process open so many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(hard, wanted)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))


@contextlib.contextmanager
def server(output: Path, temporary: Path, weights: str | None):
    """A `comics serve` of its own; yields its process and port."""
    model = ["--weights", weights] if weights else []
    words = ["serve", "--port", "0", "--device", "cpu", "--max-time", "60", *model]
    with open(output / "log.txt", "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "comics.cli", *words],
            cwd=temporary.parent, stdout=subprocess.PIPE, stderr=log, text=True,
            env={
                **os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(ROOT),
                "TORCHINDUCTOR_CACHE_DIR": str(output / "cache"),  # torch makes it when imported
            },
        )  # fmt: skip
        try:
            line = process.stdout.readline()
            if "Serving on" not in line:
                raise SystemExit(f"the server did not start: see {output / 'log.txt'}")
            port = int(line.rsplit(":", 1)[1])
            wait_for(port)
            yield process, port
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def wait_for(port: int) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if ask(port)[0] == 200:
                return
        time.sleep(0.2)
    raise SystemExit("the server does not answer")


def ask(port: int, timeout: float = HEALTH_S) -> tuple[int, dict]:
    """/healthz."""
    connection = http.client.HTTPConnection(HOST, port, timeout=timeout)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def assault(
    process: subprocess.Popen, port: int, options: argparse.Namespace, account: Account
) -> None:
    """All requests, while half-open connections are held and the server's health is watched."""
    honest = picture()
    status, body = post(port, form("honest.png", honest))
    if status != 200:
        account.faults.append(f"an honest picture was answered with {status}: {body[:200]}")
        return
    expected = without_times(body)
    ended = threading.Event()
    watchers = [
        threading.Thread(target=watch, args=(process, port, account, ended)),
        threading.Thread(target=hold_half_open, args=(port, options.half_open, ended)),
    ]
    for watcher in watchers:
        watcher.start()
    begun = time.monotonic()
    names = list(KINDS)

    def one(number: int) -> None:
        rng = random.Random(f"{options.seed} {number}")
        if time.monotonic() - begun > options.seconds or process.poll() is not None:
            return
        name = names[number % len(names)]
        act, allowed = KINDS[name]
        for _ in range(TRIES):
            try:
                status, body = act(port, rng, honest)
            except OSError:  # closed on us, which is an answer too
                status, body = GONE, b""
            if status != BUSY:
                break
            time.sleep(rng.uniform(0.5, 2.0))
        account.answers[name, status] += 1
        if status not in {*allowed, BUSY}:
            account.faults.append(f"request {number}, {name}: {status} {body[:200]!r}")
        elif name == "honest picture" and status == 200 and without_times(body) != expected:
            account.faults.append(f"request {number}: an honest picture has another answer")

    with ThreadPoolExecutor(options.clients) as pool:
        list(pool.map(one, range(options.requests)))
    account.seconds = time.monotonic() - begun
    ended.set()
    for watcher in watchers:
        watcher.join()
    if process.poll() is not None:
        account.faults.append(f"the server ended with {process.returncode}")


def without_times(body: bytes) -> str:
    """What of an answer must be the same every time."""
    document = json.loads(body)
    return json.dumps({name: document[name] for name in ("results", "images", "files")})


def watch(process: subprocess.Popen, port: int, account: Account, ended: threading.Event) -> None:
    """Ask for the server's health, and look at its memory, until the end."""
    while not ended.wait(0.5):
        begun = time.monotonic()
        try:
            status, _ = ask(port)
            if status != 200:
                account.faults.append(f"/healthz: {status}")
        except (OSError, http.client.HTTPException, ValueError) as error:
            account.faults.append(f"/healthz: {error!r}")
        account.health_s.append(time.monotonic() - begun)
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    account.most_kib = int(line.split()[1])


def hold_half_open(port: int, count: int, ended: threading.Event) -> None:
    """Hold connections with half a header; open those again that the server closes."""
    held: list[socket.socket] = []
    while not ended.wait(0.2):
        alive = []
        for connection in held:
            with contextlib.suppress(OSError):
                connection.sendall(b"a")
                alive.append(connection)
        held = alive
        with contextlib.suppress(OSError):
            for _ in range(min(count - len(held), REOPENED)):
                connection = socket.create_connection((HOST, port), timeout=5)
                connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                held.append(connection)
    for connection in held:
        connection.close()


def check_traces(
    process: subprocess.Popen, port: int, output: Path, temporary: Path, account: Account
) -> None:
    """What must be as before once all is quiet again."""
    if process.poll() is not None:
        return
    deadline = time.monotonic() + ANSWER_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            if ask(port)[1]["uploads"] == 0 and not list(temporary.iterdir()):
                break
        time.sleep(0.5)
    else:
        account.faults.append(f"held after the end: {ask(port)[1]}, {list(temporary.iterdir())}")
    if list(output.rglob(f"*{MARKER}*")) or Path("/tmp", MARKER).exists():
        account.faults.append("something that was sent was run")


# What is sent


def form(name: str, content: bytes, field_name: str = "file") -> bytes:
    """A form with one file."""
    shown = name.replace("\\", "\\\\").replace('"', '\\"').encode("utf-8", "surrogatepass")
    return (
        f"--{BOUNDARY}\r\n".encode()
        + f'Content-Disposition: form-data; name="{field_name}"; filename="'.encode()
        + shown
        + b'"\r\n\r\n'
        + content
        + f"\r\n--{BOUNDARY}--\r\n".encode()
    )


def post(port: int, body: bytes, **headers: str) -> tuple[int, bytes]:
    """Send a body to the API; its status and answer."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_S)
    kind = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", "/api/detect", body, kind | named)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def get(port: int, method: str, path: str, **headers: str) -> tuple[int, bytes]:
    """Another request."""
    connection = http.client.HTTPConnection(HOST, port, timeout=ANSWER_S)
    try:
        connection.request(
            method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def raw(port: int, content: bytes, timeout: float = 30.0) -> tuple[int, bytes]:
    """Send bytes; the status of what comes back, if it is HTTP."""
    with socket.create_connection((HOST, port), timeout=timeout) as connection:
        connection.sendall(content)
        answer = b""
        with contextlib.suppress(TimeoutError):
            while chunk := connection.recv(65536):
                answer += chunk
                if b"\r\n\r\n" in answer:
                    break
    parts = answer.split(None, 2)
    return (int(parts[1]), answer) if answer.startswith(b"HTTP/1.1 ") else (GONE, answer)


def picture(form_name: str = "PNG", size: tuple[int, int] = (120, 90), frames: int = 1) -> bytes:
    """A small picture of noise, or an animation."""
    from PIL import Image

    rng = random.Random(1)
    images = [
        Image.frombytes("RGB", size, rng.randbytes(size[0] * size[1] * 3)) for _ in range(frames)
    ]
    buffer = io.BytesIO()
    more = {"save_all": True, "append_images": images[1:]} if frames > 1 else {}
    images[0].save(buffer, form_name, **more)
    return buffer.getvalue()


def huge_png(side: int) -> bytes:
    """A PNG of a few hundred bytes that says it has side x side pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100_000))) + chunk(b"IEND", b"")
    )  # fmt: skip


def huge_gif(side: int, frames: int) -> bytes:
    """A GIF whose frames are said to have side x side pixels."""
    screen = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes(6)
    frame = (
        b"!\xf9\x04\x00\x0a\x00\x00\x00," + struct.pack("<HHHHB", 0, 0, side, side, 0)
        + b"\x02\x02\x4c\x01\x00"
    )  # fmt: skip
    return screen + frame * frames + b";"


def cut(content: bytes, rng: random.Random) -> bytes:
    """Part of a file."""
    return content[: rng.randrange(1, len(content))]


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A file with a few bytes changed."""
    data = bytearray(content)
    for _ in range(rng.randrange(1, 20)):
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


NO_PICTURES = (
    b"hello", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>", b"MZ" + bytes(500),
    b"#!/bin/sh\ntouch executed\n", b"<?php system('touch executed'); ?>", b"%PDF-1.7\n",
    bytes(5000),
    b"cos\nsystem\n(S'touch executed'\ntR.", b"PK\x03\x04" + bytes(100), b"\xff\xd8\xff", b"GIF89a",
    b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n",
)  # fmt: skip
HTTP_GARBAGE = (
    b"\x16\x03\x01\x02\x00\x01\x00", b"\r\n\r\n\r\n", b"GET\r\n\r\n", b"HELLO WORLD\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"GET / HTTP/1.1\r\nHost x\r\n\r\n",
    b"POST /api/detect HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/detect HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
)  # fmt: skip
PATHS = (
    "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd", "/redoc", "/.git/HEAD",
    "/api/detect/../../healthz", "/api/detect?file=/etc/passwd", "/static/../index.js", "/%00",
)  # fmt: skip
UPLOAD_HEAD = (
    "POST /api/detect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {}\r\n"
    f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n\r\n"
)
Act = Callable[[int, random.Random, bytes], tuple[int, bytes]]


def broken_form(port: int, rng: random.Random, honest: bytes) -> tuple[int, bytes]:
    """A form with something wrong."""
    whole = form("a.png", honest)
    many = b"".join(form(f"{n}.png", b"x")[:-4] + b"\r\n" for n in range(200))
    body = rng.choice(
        [b"nonsense", b"", f"--{BOUNDARY}".encode(), cut(whole, rng), mutated(whole, rng), many,
         form("a.png", honest, "other"), f"--{BOUNDARY}\r\n".encode() * 5000,
         whole.replace(b"\r", b"")]
    )  # fmt: skip
    return post(port, body)


def another_form(port: int, rng: random.Random, honest: bytes) -> tuple[int, bytes]:
    """A body in a form that is not taken."""
    kinds = [
        "application/json",
        "text/plain",
        "image/png",
        "application/x-www-form-urlencoded",
        "x",
    ]
    return post(port, honest, Content_Type=rng.choice(kinds))


def too_large(port: int, rng: random.Random, honest: bytes) -> tuple[int, bytes]:
    """More bytes than are taken, said so or not."""
    if rng.random() < 0.5:
        return raw(port, UPLOAD_HEAD.format(10**12).encode() + bytes(1000))
    return raw(port, UPLOAD_HEAD.format("9" * 30).encode() + bytes(1000))


def leaves(port: int, rng: random.Random, honest: bytes) -> tuple[int, bytes]:
    """A client that goes while it sends, or while it waits."""
    body = form("a.png", honest)
    sent = UPLOAD_HEAD.format(len(body)).encode() + body
    with socket.create_connection((HOST, port), timeout=30) as connection:
        connection.sendall(sent if rng.random() < 0.5 else cut(sent, rng))
        time.sleep(rng.uniform(0, 0.3))
        if rng.random() < 0.5:  # by a reset
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return GONE, b""


def silent(port: int, rng: random.Random, honest: bytes) -> tuple[int, bytes]:
    """An upload that begins and brings no more."""
    return raw(port, UPLOAD_HEAD.format(100_000).encode() + b"--", timeout=60)


def foreign(port: int, rng: random.Random, honest: bytes) -> tuple[int, bytes]:
    """What a browser sends for a page of another site, or of another port."""
    headers = rng.choice(
        [{"Host": "evil.example"}, {"Origin": "https://evil.example"}, {"Origin": "null"},
         {"Origin": f"http://{HOST}:1"}, {"Origin": f"https://{HOST}:{port}"},
         {"Sec_Fetch_Site": "cross-site"}, {"Sec_Fetch_Site": "same-site"}]
    )  # fmt: skip
    return post(port, form("a.png", honest), **headers)


def wrong_method(port: int, rng: random.Random, honest: bytes) -> tuple[int, bytes]:
    """A method that is not for that path."""
    method = rng.choice(["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
    return get(port, method, rng.choice(["/", "/healthz", "/api/detect"]))


REFUSED = {400, 408, 413, 415, 422}
KINDS: dict[str, tuple[Act, set[int]]] = {
    "honest picture": (lambda port, rng, honest: post(port, form("honest.png", honest)), {200}),
    "hostile name": (
        lambda port, rng, honest: post(port, form(rng.choice(NAMES), honest)), {200, 400, 422}
    ),
    "no picture": (
        lambda port, rng, honest: post(port, form("a.png", rng.choice(NO_PICTURES))), {415, 422}
    ),
    "cut picture": (
        lambda port, rng, honest: post(
            port, form("a.jpg", cut(picture(rng.choice(["JPEG", "PNG", "WEBP", "GIF"])), rng))
        ), {200, 415, 422},
    ),
    "mutated picture": (
        lambda port, rng, honest: post(
            port, form("a", mutated(picture(rng.choice(["JPEG", "PNG", "WEBP", "TIFF"])), rng))
        ), {200, 413, 415, 422},
    ),
    "huge picture": (
        lambda port, rng, honest: post(port, form("a.png", huge_png(rng.choice([30_000, 60_000])))),
        {413},
    ),
    "huge animation": (
        lambda port, rng, honest: post(port, form("a.gif", huge_gif(12_000, 50))), {413},
    ),
    "broken form": (broken_form, {200, *REFUSED}),
    "another form": (another_form, {415}),
    "too large": (too_large, {400, 413, GONE}),
    "client that leaves": (leaves, {GONE}),
    "silent upload": (silent, {408}),
    "foreign page": (foreign, {403}),
    "wrong method": (wrong_method, {405}),
    "path": (lambda port, rng, honest: get(port, "GET", rng.choice(PATHS)), {400, 404, 405}),
    "broken HTTP": (
        lambda port, rng, honest: raw(port, rng.choice(HTTP_GARBAGE)),
        {GONE, 200, 400, 403, 404, 405, 408, 415, 431},
    ),
    "page": (
        lambda port, rng, honest: get(
            port, rng.choice(["GET", "HEAD"]), rng.choice(["/", "/docs"]), Range="bytes=0-,0-"
        ),
        {200},
    ),
}  # fmt: skip

if __name__ == "__main__":
    sys.exit(main())
