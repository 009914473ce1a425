"""Model files by address, from a server on this machine."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import comics
from comics.inference.default_weights import SHIPPED, default_weights
from comics.inference.remote_weights import fetch_weights, is_remote

CONTENT = b"weights" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves CONTENT as /m.safetensors, and as a repository of Hugging Face; counts requests."""

    class Handler(BaseHTTPRequestHandler):
        files = {"/m.safetensors": CONTENT, f"/some/model/resolve/{COMMIT}/m.safetensors": CONTENT}
        requests = []

        def do_HEAD(self):
            self.answer()

        def do_GET(self):
            self.wfile.write(self.answer() or b"")

        def answer(self):
            self.requests.append((self.command, self.path))
            content = self.files.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.send_header("ETag", f'"{SHA256}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.end_headers()
            return content

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        served.address = f"http://127.0.0.1:{served.server_port}"
        monkeypatch.setenv("COMICS_CACHE", str(tmp_path / "cache"))
        monkeypatch.setenv("HF_ENDPOINT", served.address)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield served
        served.shutdown()


def count(server, name):
    return sum(name in path for _, path in server.RequestHandlerClass.requests)


def test_an_address_is_fetched_once_and_checked(server, tmp_path):
    address = f"{server.address}/m.safetensors#sha256={SHA256}"
    path = default_weights(address)
    assert path.read_bytes() == CONTENT and path.parent == tmp_path / "cache"
    assert fetch_weights(address) == path and count(server, "m.safetensors") == 1
    path.write_bytes(b"changed on the disk")
    assert fetch_weights(address).read_bytes() == CONTENT and count(server, "m.safetensors") == 2


def test_another_file_than_named_is_not_kept(server, tmp_path):
    wrong = f"{server.address}/m.safetensors#sha256={'0' * 64}"
    with pytest.raises(ValueError, match=f"SHA-256 is {SHA256}, not 000"):
        fetch_weights(wrong)
    assert not any((tmp_path / "cache").iterdir())


def test_a_repository_is_read_at_a_commit(server):
    address = f"hf://some/model/m.safetensors@{COMMIT}"
    path = fetch_weights(address)
    assert path.read_bytes() == CONTENT
    assert fetch_weights(f"{address}#sha256={SHA256}") == path
    with pytest.raises(ValueError, match=f"its SHA-256 is {SHA256}"):
        fetch_weights(f"{address}#sha256={'0' * 64}")
    with pytest.raises(OSError, match="hf://some/model/absent.safetensors.*cannot be fetched"):
        fetch_weights(f"hf://some/model/absent.safetensors@{COMMIT}")


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("https://host/m.safetensors", "needs #sha256="),
        ("https://host/m.safetensors#sha256=12", "64 hexadecimal digits"),
        (f"https://host/m.pkl#sha256={SHA256}", "ends in .safetensors"),
        (f"http://host/m.safetensors#sha256={SHA256}", "by https://"),
        (f"ftp://host/m.safetensors#sha256={SHA256}", "by https://"),
        (f"file:///etc/m.safetensors#sha256={SHA256}", "by https://"),
        ("hf://some/model/m.safetensors@main", "'main' is no commit"),
        ("hf://some/model/m.safetensors", "hf://owner/repository/file@commit"),
        (f"hf://some/model/m.bin@{COMMIT}", "ends in .safetensors"),
    ],
)
def test_addresses_that_prove_nothing_are_refused(address, fault):
    assert is_remote(address)
    with pytest.raises(ValueError, match=fault):
        fetch_weights(address)


def test_what_is_not_there_is_named(server):
    address = f"{server.address}/absent.safetensors#sha256={SHA256}"
    with pytest.raises(OSError, match="absent.safetensors cannot be fetched"):
        comics.load(address)


def test_names_and_paths_are_not_fetched(monkeypatch):
    monkeypatch.delenv("COMICS_WEIGHTS", raising=False)
    assert default_weights("default") == default_weights() == SHIPPED
    assert default_weights("a/b.safetensors").as_posix() == "a/b.safetensors"
    assert not is_remote("a/b.safetensors") and not is_remote(SHIPPED)
