"""Content Credentials: integrity and trust apart, nothing fetched, no file that ends a run."""

import http.server
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from custody_files import Signer, jpeg, segment, with_segments, xmp, xmp_segment
from PIL import Image

from comics.data.custody import credentials as module
from comics.data.custody.credentials import CredentialsReader, TrustList
from comics.data.custody.facts import read_facts


@pytest.fixture(scope="module")
def signer():
    pytest.importorskip("c2pa")
    return Signer()


@pytest.fixture(scope="module")
def reader():
    with CredentialsReader() as reader:
        yield reader


def read(tmp_path, content, reader, name="x.jpg"):
    path = tmp_path / name
    path.write_bytes(content)
    return read_facts(path, credentials=reader).c2pa


def trusting(pem):
    return TrustList(pem.decode(), "0" * 64)


def test_an_unknown_signer_is_intact_and_not_trusted(tmp_path, signer, reader):
    found = read(tmp_path, signer.sign(jpeg()), reader, "写真 مرحبا.jpg")
    assert (found.present, found.intact, found.trusted) == (True, True, False)
    assert (found.signer, found.issuer) == ("Test Signer", "Test Newsroom")
    assert found.made_with == "test camera 1.5" and found.remote is False
    assert "no trust list" in found.reason


def test_trust_follows_the_list_and_integrity_does_not(tmp_path, signer):
    """Four cases: signed by one of the list or not, changed after it or not."""
    content = signer.sign(jpeg())
    changed = bytearray(content)
    changed[-400] ^= 0x55  # within the pixels
    for root, trusted in ((signer.root, True), (Signer().root, False)):
        with CredentialsReader(trusting(root)) as reader:
            for picture, intact in ((content, True), (bytes(changed), False)):
                found = read(tmp_path, picture, reader)
                assert (found.intact, found.trusted) == (intact, trusted), found
                assert (found.reason is None) == (intact and trusted)
                assert ("trust list" in (found.reason or "")) == (not trusted)
                assert ("dataHash.mismatch" in (found.reason or "")) == (not intact)


def test_a_changed_claim_is_not_intact(tmp_path, signer, reader):
    content = signer.sign(jpeg())
    at = content.index(b"digitalCapture")
    found = read(tmp_path, content[:at] + b"D" + content[at + 1 :], reader)
    assert found.present and found.intact is False and "hashedURI" in found.reason


def test_a_name_without_its_signature_is_not_told(tmp_path, signer, reader):
    """A signature of other bytes proves nobody: whoever it names has not signed this."""
    content = bytearray(signer.sign(jpeg()))
    at = content.index(b"Test Signer")
    content[at : at + 4] = b"Best"
    found = read(tmp_path, bytes(content), reader)
    assert found.intact is False and found.signer is None and found.trusted is False


@pytest.mark.parametrize(("form", "kind"), [("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tiff")])
def test_other_formats(tmp_path, signer, reader, form, kind):
    path = tmp_path / f"x.{kind}"
    Image.new("RGB", (64, 48), (9, 99, 199)).save(path, form)
    found = read(tmp_path, signer.sign(path.read_bytes(), f"image/{kind}"), reader, path.name)
    assert found.present and found.intact and found.signer == "Test Signer"


def test_most_pictures_have_none_and_no_process_begins(tmp_path, monkeypatch):
    monkeypatch.setattr(module.subprocess, "Popen", None)
    with CredentialsReader() as reader:
        found = read(tmp_path, jpeg(), reader)
        assert found.present is False and found.intact is None and found.reason is None
        assert read(tmp_path, b"GIF89a" + bytes(20), reader).present is None


def test_without_the_package_presence_is_told(tmp_path, signer, monkeypatch):
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    with CredentialsReader() as reader:
        found = read(tmp_path, signer.sign(jpeg()), reader)
    assert found.present is True and found.intact is None and found.trusted is None
    assert "pip install comics-forensics[c2pa]" in found.reason


class Hits(http.server.BaseHTTPRequestHandler):
    found: list = []

    def do_GET(self):
        self.found.append(self.path)
        self.send_response(404)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture
def address():
    Hits.found.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hits)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/m.c2pa"
    server.shutdown()
    server.server_close()


def test_a_manifest_elsewhere_is_said_and_not_fetched(tmp_path, signer, reader, address):
    found = read(tmp_path, signer.sign(jpeg(), remote=address, embed=False), reader)
    assert found.present is False and found.remote is True and "nothing is fetched" in found.reason
    # By name alone: no library is asked
    packet = xmp(f'dcterms:provenance="{address}"')
    found = read(tmp_path, with_segments(jpeg(), xmp_segment(packet)), reader)
    assert found.present is False and found.remote is True
    both = read(tmp_path, signer.sign(jpeg(), remote=address), reader)
    assert both.present and both.intact and both.remote
    assert Hits.found == []


def test_the_process_fetches_nothing_when_it_is_asked_for_a_remote_one(tmp_path, signer, address):
    """The library itself, under these settings, with the file that names a server."""
    path = tmp_path / "x.jpg"
    path.write_bytes(signer.sign(jpeg(), remote=address, embed=False))
    request = {"path": str(path), "type": "image/jpeg", "settings": module._settings(None)}
    done = subprocess.run(
        [sys.executable, "-P", str(module.PROGRAM)], input=json.dumps(request) + "\n",
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "error" in json.loads(done.stdout.splitlines()[1])
    assert Hits.found == []
    # The same file makes the library ask the server where it may: the test can fail
    request["settings"] = {"verify": {"remote_manifest_fetch": True}}
    subprocess.run(
        [sys.executable, "-P", str(module.PROGRAM)], input=json.dumps(request) + "\n",
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert Hits.found == ["/m.c2pa"]


def jumbf(length, label=b"c2pa"):
    """Segments of a box that calls itself a manifest store, of ``length`` bytes in all."""
    head = struct.pack(">I4s", length, b"jumb") + struct.pack(">I4s", 38, b"jumd")
    head += label[:4] + bytes.fromhex("001100108000 00aa00389b71") + b"\3" + label + b"\0"
    left, number, parts = head + bytes(max(0, length - len(head))), 1, []
    while left:
        parts.append(segment(0xEB, b"JP\0\1" + struct.pack(">I", number) + left[:65000]))
        left, number = left[65000:], number + 1
    return parts


def test_a_broken_manifest_is_said(tmp_path, reader):
    pytest.importorskip("c2pa")
    found = read(tmp_path, with_segments(jpeg(), *jumbf(3000)), reader)
    assert found.present is True and found.intact is False and found.signer is None
    assert found.reason.startswith("it cannot be read")


def test_a_manifest_that_is_cut_off_is_said(tmp_path, signer, reader):
    content = signer.sign(jpeg())
    at = content.index(b"jumb")
    for cut in (at + 40, at + 900, at + 5000):
        found = read(tmp_path, content[:cut] + b"\xff\xd9", reader)
        assert found.present in (True, False) and not found.intact and not found.trusted


def test_a_huge_manifest_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(module.subprocess, "Popen", None)
    with CredentialsReader() as reader:
        found = read(tmp_path, with_segments(jpeg(), *jumbf(40 << 20)), reader)
    assert found.present is True and found.intact is None and "bytes, more than" in found.reason


def test_other_boxes_of_that_kind_are_no_manifest(tmp_path, reader):
    found = read(tmp_path, with_segments(jpeg(), *jumbf(2000, b"other")), reader)
    assert found.present is False


@pytest.mark.parametrize("ending", ["silent", "dies"])
def test_a_reader_that_hangs_or_dies_is_ended_and_the_next_one_works(
    tmp_path, signer, monkeypatch, ending
):
    program = tmp_path / "program.py"
    rest = "time.sleep(600)" if ending == "silent" else "os._exit(9)"
    program.write_text(
        f"import os, sys, time\nprint('{{}}', flush=True)\nsys.stdin.readline()\n{rest}\n"
    )
    content = signer.sign(jpeg())
    with CredentialsReader() as reader:
        with monkeypatch.context() as patch:
            patch.setattr(module, "PROGRAM", program)
            patch.setattr(module, "ANSWER_SECONDS", 1.0)
            found = read(tmp_path, content, reader)
        assert found.present is True and found.intact is None
        assert ("seconds" if ending == "silent" else "ended") in found.reason
        assert read(tmp_path, content, reader).intact is True


def test_a_name_is_a_strangers_text(tmp_path, reader):
    pytest.importorskip("c2pa")
    wild = Signer("<b>\u202eevil\n", "Редакция")
    found = read(tmp_path, wild.sign(jpeg()), reader)
    assert found.signer == "<b>\\u202eevil" and found.issuer == "Редакция"


def test_trust_lists(tmp_path):
    path = tmp_path / "anchors.pem"
    path.write_bytes(b"no certificate")
    with pytest.raises(ValueError, match="no certificate"):
        TrustList.read(path)
    with pytest.raises(OSError, match="No such file"):
        TrustList.read(tmp_path / "gone.pem")


def test_the_process_imports_nothing_of_the_package():
    text = Path(module.PROGRAM).read_text()
    assert "from comics" not in text and "import comics" not in text


def test_closing_ends_the_process(tmp_path, signer):
    with CredentialsReader() as reader:
        read(tmp_path, signer.sign(jpeg()), reader)
        number = reader._process._process.pid
        os.kill(number, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)
