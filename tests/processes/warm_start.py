"""Start the project's tools in processes that have imported its libraries already.

A process of ours spends seconds on importing PyTorch, and the tests start hundreds. Here one
server per test process imports once; every tool is then a fork of it: a process of its own, with
its own arguments, folder, environment and streams, that ends with its own exit code.

``installed()`` lets ``subprocess.Popen``, and so ``subprocess.run``, take this way for a script of
Python, or for one of ``MODULES``, that is started in the usual manner. It does so in the forks too:
the processes of a launcher are forks like the launcher itself. All else starts as ever: ``-c``,
another environment of the interpreter, limits. So does a script whose imports are what is tested.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import importlib
import inspect
import json
import os
import pkgutil
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STREAMS = 3  # stdin, stdout, stderr
REQUEST_BYTES = 1 << 20
ANSWER = struct.Struct("i")  # the number of a process; later the status that it ended with
MODULES = ("torch.distributed.run",)  # what may be started by -m
PRELOADED = ("torch", "torchvision", "timm", "cv2", "av", "scipy.ndimage", "PIL.Image")
LOOK_S = 5.0  # between two looks whether the test process still lives
THREADS = Path("/proc/self/task")  # a folder for each thread of this process
FORKS_SAFELY = "jemalloc_bg_thd"  # a thread of pyarrow's allocator, which is prepared for forks
WITH_THREADS = "comics.inference.onnx."  # ONNX Runtime starts one, and forks may wait for it
# Read when an interpreter or a library starts: who wants them otherwise needs a start of its own
READ_AT_START = ("PYTHON", "LD_", "OMP_", "MKL_", "OPENBLAS_", "ATEN_", "CUDA_", "MALLOC_")
RANK = "rank "  # how the process of a launcher is named, with its number
UNUSUAL = ("preexec_fn", "pass_fds", "shell", "gid", "gids", "uid")  # of _execute_child


# --- in the test process, and in the forks -------------------------------------------------------


@contextlib.contextmanager
def installed() -> Iterator[None]:
    """While it lasts, ``subprocess.Popen`` gets scripts of Python as forks of a server."""
    with contextlib.ExitStack() as stack:
        server = functools.cache(lambda: _start_server(stack))  # not before one is to be started
        stack.callback(_take_over(server, _read_at_start(os.environ)))
        yield


def _start_server(stack: contextlib.ExitStack) -> str:
    """Address of a process that imports once; it ends with the stack."""
    folder = stack.enter_context(tempfile.TemporaryDirectory())
    address = os.path.join(folder, "socket")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        process = subprocess.Popen(
            [sys.executable, __file__, address, str(listener.fileno())],
            pass_fds=[listener.fileno()], stdin=subprocess.DEVNULL,
        )  # fmt: skip
    stack.callback(process.wait)
    stack.callback(process.kill)
    return address


def _read_at_start(environment: Any) -> dict[str, str]:
    return {name: environment[name] for name in environment if name.startswith(READ_AT_START)}


def suitable(words: Any, at_start: dict[str, str], options: dict[str, Any]) -> bool:
    """Whether a command is a script of Python, or a module, that is started in the usual way.

    Args:
        words: the command.
        at_start: variables of ``READ_AT_START`` as the server has them.
        options: arguments of ``Popen._execute_child``.
    """
    if not isinstance(words, (list, tuple)) or len(words) < 2 or str(words[0]) != sys.executable:
        return False
    if any(options[name] for name in UNUSUAL) or options["process_group"] not in (None, -1):
        return False
    if _read_at_start(options["env"] or os.environ) != at_start:
        return False
    if not all(isinstance(word, (str, os.PathLike)) for word in words):
        return False
    if not os.path.isdir(options["cwd"] or os.curdir):
        return False
    first, second = [*map(str, words[1:] if words[1] != "-u" else words[2:]), "", ""][:2]
    return second in MODULES if first == "-m" else first.endswith(".py")


def _take_over(server: Callable[[], str], at_start: dict[str, str]) -> Callable[[], None]:
    """Let ``Popen`` ask the server at that address for what is suitable; returns what ends that.

    Methods are replaced, not the class, which others have imported by its name.
    """
    kind = subprocess.Popen
    execute, try_wait, poll = kind._execute_child, kind._try_wait, kind._internal_poll
    signature = inspect.signature(execute)

    def execute_child(self: Any, *values: Any, **named: Any) -> None:
        options = signature.bind(self, *values, **named).arguments
        if not suitable(options["args"], at_start, options) or not _ask(server(), self, options):
            execute(self, *values, **named)

    def try_wait_of(self: Any, flags: int) -> tuple[int, int]:
        if not hasattr(self, "_forks_end"):
            return try_wait(self, flags)
        try:
            answer = self._forks_end.recv(ANSWER.size, socket.MSG_DONTWAIT if flags else 0)
        except BlockingIOError:
            return 0, 0
        self._forks_end.close()
        return self.pid, ANSWER.unpack(answer)[0] if answer else signal.SIGKILL

    def internal_poll(self: Any, *values: Any, **named: Any) -> int | None:
        if not hasattr(self, "_forks_end"):
            return poll(self, *values, **named)
        if self.returncode is None and self._waitpid_lock.acquire(False):
            try:
                if self.returncode is None and (ended := try_wait_of(self, os.WNOHANG))[0]:
                    self._handle_exitstatus(ended[1])
            finally:
                self._waitpid_lock.release()
        return self.returncode

    def restore() -> None:
        kind._execute_child, kind._try_wait, kind._internal_poll = execute, try_wait, poll

    kind._execute_child = execute_child
    kind._try_wait, kind._internal_poll = try_wait_of, internal_poll
    return restore


def _ask(address: str, process: Any, options: dict[str, Any]) -> bool:
    """Have the server fork; False where it does not, which is before anything was done."""
    request = {
        "words": [str(word) for word in options["args"][1:]],
        "folder": os.path.abspath(options["cwd"] or os.curdir),
        "environment": dict(options["env"] or os.environ),
        "session": options["start_new_session"],
    }
    ours = [options[name] for name in ("p2cread", "c2pwrite", "errwrite")]
    streams = [stream if stream != -1 else number for number, stream in enumerate(ours)]
    server = socket.socket(socket.AF_UNIX)
    try:
        server.connect(address)
        socket.send_fds(server, [json.dumps(request).encode() + b"\n"], streams)
        answer = server.recv(ANSWER.size)
    except OSError:
        answer = b""
    if not answer:
        server.close()
        return False
    (process.pid,) = ANSWER.unpack(answer)
    process._forks_end, process._child_created = server, True
    names = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
    process._close_pipe_fds(*(options[name] for name in names))
    return True


# --- the server ----------------------------------------------------------------------------------


def serve(listener: socket.socket) -> list[str]:
    """Words of a script; it returns in forks only."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks are not waited for
    started_by = os.getppid()
    listener.settimeout(LOOK_S)
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if os.getppid() != started_by:
                os._exit(0)  # the tests were killed
            continue
        if os.fork():
            connection.close()
            continue
        listener.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        return _watch(connection)


def _watch(connection: socket.socket) -> list[str]:
    """Fork once more, in which it returns; wait, and tell how it ended."""
    data, streams, _, _ = socket.recv_fds(connection, REQUEST_BYTES, STREAMS)
    while not data.endswith(b"\n"):
        data += connection.recv(REQUEST_BYTES)
    request = json.loads(data)
    child = os.fork()
    if not child:
        connection.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        if request["session"]:
            os.setsid()
        os.chdir(request["folder"])
        os.environ.clear()
        os.environ.update(request["environment"])
        if "RANK" in os.environ:  # the environment that the system shows is the server's
            Path("/proc/self/comm").write_text(RANK + os.environ["RANK"])
        return request["words"]
    for stream in streams:
        os.close(stream)
    for number in range(STREAMS):  # a pipe ends when the fork ends it
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    with contextlib.suppress(OSError):
        connection.send(ANSWER.pack(child))
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(OSError):
        connection.send(ANSWER.pack(status))
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
    threads = [name.read_text().strip() for name in THREADS.glob("*/comm")]
    if len(threads) - threads.count(FORKS_SAFELY) > 1:
        raise RuntimeError("a library started a thread while it was imported")


def main() -> None:
    """Serve on the inherited socket; in forks, be the script."""
    address, number = sys.argv[1:]
    listener = socket.socket(fileno=int(number))
    sys.path.pop(0)  # this folder
    import_everything()
    gc.freeze()  # what is shared with the forks is not visited, which would copy it
    words = serve(listener)
    _take_over(lambda: address, _read_at_start(os.environ))
    if words[0] == "-u":
        words = words[1:]
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    code = _run(words)
    # All that an interpreter does at its end but taking every module apart, which takes seconds
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _run(words: list[str]) -> int:
    """Be the script, or the module after -m; its exit code."""
    try:
        if words[0] == "-m":
            sys.argv = words[1:]
            sys.path.insert(0, os.getcwd())
            sys.modules.pop(words[1], None)  # it is run, not imported
            runpy.run_module(words[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = words
            sys.path.insert(0, str(Path(words[0]).resolve().parent))
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)  # as an interpreter ends by it
        raise
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    main()
