"""Start the project's tools in processes that have imported its libraries already.

A process of ours spends seconds on importing PyTorch, and the tests start hundreds. Here one
server per test process imports once; every tool is then a fork of it: a process of its own, with
its own arguments, folder, environment and streams, that ends with its own exit code.

``installed()`` lets ``subprocess.run`` take this way where nothing else is asked for than a script
of Python in the environment of the caller. All else starts as ever: ``Popen``, ``-c`` and ``-m``,
another environment, limits. So does a script whose imports are what is tested.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STREAMS = 3  # stdin, stdout, stderr
REQUEST_BYTES = 1 << 20
KNOWN = {"capture_output", "text", "cwd", "check", "timeout"}  # arguments of subprocess.run
PRELOADED = ("torch", "torchvision", "timm", "cv2", "av", "scipy.ndimage", "PIL.Image")
THREADS = "/proc/self/task"  # a folder for each thread of this process
WITH_THREADS = "comics.inference.onnx."  # ONNX Runtime starts one, and forks may wait for it


# --- in the test process -------------------------------------------------------------------------


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """While it lasts, ``subprocess.run`` forks scripts of Python from a server."""
    original = subprocess.run
    with contextlib.ExitStack() as stack:
        server = functools.cache(lambda: _Server(stack))  # not before a script is to be started

        def run(words: Any, *others: Any, **options: Any) -> subprocess.CompletedProcess:
            if others or not suitable(words, options) or not server().lives():
                return original(words, *others, **options)
            return _run(server().address, [str(word) for word in words], **options)

        subprocess.run = run  # type: ignore[assignment]
        try:
            yield
        finally:
            subprocess.run = original  # type: ignore[assignment]


class _Server:
    """The process that imports once; it ends with the stack."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        self.address = os.path.join(folder, "socket")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self.address)
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL,
            )  # fmt: skip
        stack.callback(self._process.wait)
        stack.callback(self._process.kill)

    def lives(self) -> bool:
        """False where it could not import, or refused to fork."""
        return self._process.poll() is None


def suitable(words: Any, options: dict[str, Any]) -> bool:
    """Whether a command is a script of Python that is started in the usual way."""
    if not isinstance(words, (list, tuple)) or len(words) < 2 or set(options) - KNOWN:
        return False
    return str(words[0]) == sys.executable and str(words[1]).endswith(".py")


def _run(
    address: str,
    words: list[str],
    *,
    capture_output: bool = False,
    text: bool = False,
    cwd: Any = None,
    check: bool = False,
    timeout: float | None = None,
) -> subprocess.CompletedProcess:
    request = {
        "words": words[1:],
        "folder": os.path.abspath(cwd or os.curdir),
        "environment": dict(os.environ),
    }
    with contextlib.ExitStack() as stack:
        streams = [stack.enter_context(open(os.devnull))]
        if capture_output:
            streams += [stack.enter_context(tempfile.TemporaryFile("w+")) for _ in "oe"]
        else:
            sys.stdout.flush()
            sys.stderr.flush()
        numbers = [stream.fileno() for stream in streams] + [1, 2][: STREAMS - len(streams)]
        server = stack.enter_context(socket.socket(socket.AF_UNIX))
        server.connect(address)
        server.settimeout(timeout)
        socket.send_fds(server, [json.dumps(request).encode() + b"\n"], numbers)
        try:
            answer = server.recv(16)
        except TimeoutError:
            raise subprocess.TimeoutExpired(words, timeout or 0) from None  # closing kills it
        shown = [None, None]
        if capture_output:
            for position, stream in enumerate(streams[1:]):
                stream.seek(0)
                data = stream.buffer.read()
                shown[position] = data.decode().replace("\r\n", "\n") if text else data
    done = subprocess.CompletedProcess(words, int(answer or -signal.SIGKILL), *shown)
    if check:
        done.check_returncode()
    return done


# --- the server ----------------------------------------------------------------------------------


def serve(listener: socket.socket) -> list[str]:
    """Words of a script; it returns in forks only."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks are not waited for
    while True:
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return _watch(connection)


def _watch(connection: socket.socket) -> list[str]:
    """Fork once more, in which it returns; wait, and tell the exit code."""
    data, streams, _, _ = socket.recv_fds(connection, REQUEST_BYTES, STREAMS)
    while not data.endswith(b"\n"):
        data += connection.recv(REQUEST_BYTES)
    child = os.fork()
    if not child:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        request = json.loads(data)
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        return request["words"]
    for stream in streams:
        os.close(stream)
    ended = os.pidfd_open(child)
    ready, _, _ = select.select([connection, ended], [], [])
    if ended not in ready:  # nobody waits any more
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.send(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def import_everything() -> None:
    """Libraries, and every module of the package that is importable here.

    Raises:
        RuntimeError: if one of them started a thread; then nothing is forked, see ``installed``.
    """
    import comics

    names = [module.name for module in pkgutil.walk_packages(comics.__path__, "comics.")]
    for name in (*PRELOADED, *names):
        if not name.startswith(WITH_THREADS) and not name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of what is optional
                importlib.import_module(name)
    if len(os.listdir(THREADS)) > 1:
        raise RuntimeError("a library started a thread while it was imported")


def main() -> None:
    """Serve on the inherited socket; in forks, be the script."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    sys.path.pop(0)  # this folder
    import_everything()
    gc.freeze()  # what is shared with the forks is not visited, which would copy it
    sys.argv = serve(listener)
    sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
    code = _run_script(sys.argv[0])
    # All that an interpreter does at its end but taking every module apart, which takes seconds
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _run_script(path: str) -> int:
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
