"""Content Credentials (C2PA): whether a file has a manifest, is as it was signed, and by whom.

Two questions are kept apart. **Intact**: does the signature match, and are the file and the claims
as they were signed? **Trusted**: does the signer's certificate lead to one that the user trusts?
Anyone can sign, so an intact manifest of an unknown signer says that nothing changed since, not
that what it claims is true; and pictures without a manifest are the rule.

Nothing is fetched: no manifest that a file says lies elsewhere, no list of revoked certificates.
The manifests are read by c2pa-python (extra ``c2pa``), in a process of its own; whether there is
one is told without it.

Source: C2PA 2.1, 15 (validation).
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from comics.data.custody.texts import plain_text

MAX_MANIFEST = 32 << 20  # bytes
MAX_TRUST_LIST = 16 << 20  # bytes
START_SECONDS, ANSWER_SECONDS = 60.0, 30.0
PACKAGE, INSTALL = "c2pa", "pip install comics-forensics[c2pa]"
CERTIFICATE = b"-----BEGIN CERTIFICATE-----"
TRUSTED = "signingCredential.trusted"
SIGNED = "claimSignature.validated"
# What speaks against a signer, and not against the file or its claims
TRUST_FAULTS = frozenset({"signingCredential.untrusted"})
MAX_CODES = 8  # that are named
PROGRAM = Path(__file__).with_name("credentials_process.py")
REMOTE = (
    "it says that its manifest lies elsewhere; nothing is fetched, so that one was not looked at"
)


@dataclass(frozen=True)
class ContentCredentials:
    """What C2PA says of a file.

    Attributes:
        present: whether there is a manifest in it; None: not looked for in such a file.
        remote: whether it says that a manifest lies elsewhere.
        intact: whether the file and the claims are as they were signed; None: not checked.
        signer, issuer: names in the signer's certificate: whose it is, and of which organisation;
            only where ``intact``.
        trusted: whether that certificate leads to one of the user's trust list; None: not checked.
        signed_at: when, by a time stamp in it, as it is written there.
        made_with: the program that made the manifest, by its own claim.
        reason: why something is not so, or was not checked; None if there is nothing to say.
    """

    present: bool | None
    remote: bool = False
    intact: bool | None = None
    signer: str | None = None
    issuer: str | None = None
    trusted: bool | None = None
    signed_at: str | None = None
    made_with: str | None = None
    reason: str | None = None


@dataclass(frozen=True)
class TrustList:
    """Certificates that the user trusts.

    Attributes:
        pem: their text.
        sha256: of the file, by which results say which list it was.
    """

    pem: str
    sha256: str

    @classmethod
    def read(cls, path: str | os.PathLike) -> TrustList:
        """From a PEM file.

        Raises:
            OSError: if it cannot be read.
            ValueError: if it holds no certificate, or is too large to be a list of them.
        """
        with open(path, "rb") as file:
            content = file.read(MAX_TRUST_LIST + 1)
        if len(content) > MAX_TRUST_LIST:
            raise ValueError(f"{path}: a trust list of more than {MAX_TRUST_LIST} bytes")
        if CERTIFICATE not in content:
            raise ValueError(f"{path}: no certificate in it; a PEM file of them was expected")
        text = content.decode("ascii", "replace")
        return cls(text, hashlib.sha256(content).hexdigest())


class CredentialsReader:
    """Reads manifests; a context manager, which ends its process.

    The process begins with the first manifest. Threads may share a reader; one file is read at a
    time.

    Args:
        trust: whom to trust; None: nobody.
    """

    def __init__(self, trust: TrustList | None = None) -> None:
        self._trust = trust
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._why_not: str | None = None  # set once it is known that none can be read

    def __enter__(self) -> CredentialsReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def read(
        self,
        path: str | os.PathLike,
        media_type: str,
        manifest_bytes: int | None,
        provenance: str | None = None,
    ) -> ContentCredentials:
        """Of a file.

        Args:
            path: of it.
            media_type: such as "image/jpeg".
            manifest_bytes: see ``comics.data.custody.parts.MetadataParts``.
            provenance: where its XMP says that its manifest is.
        """
        remote = (provenance or "").lower().startswith(("http:", "https:"))
        if manifest_bytes is None:
            return ContentCredentials(None, reason="not looked for in a file of this type")
        if not manifest_bytes:
            return ContentCredentials(False, remote, reason=REMOTE if remote else None)
        if manifest_bytes > MAX_MANIFEST:
            reason = f"its manifest has {manifest_bytes} bytes, more than the {MAX_MANIFEST} read"
            return ContentCredentials(True, remote, reason=reason)
        with self._lock:
            answer = self._ask(path, media_type)
        return _judged(answer, remote, self._trust is not None)

    def _ask(self, path: str | os.PathLike, media_type: str) -> Mapping[str, Any]:
        if self._why_not is None and importlib.util.find_spec(PACKAGE) is None:
            self._why_not = f"not checked: {INSTALL}"
        if self._why_not is not None:
            return {"error": "absent", "message": self._why_not}
        request = {
            "path": os.path.abspath(path),
            "type": media_type,
            "settings": _settings(self._trust),
        }
        try:
            if self._process is None:
                self._process = _Process()
                first = self._process.answer(START_SECONDS)
                if "error" in first:
                    self._why_not = f"not checked: {PACKAGE} cannot be used: {first['message']}"
                    self._end()
                    return {"error": "absent", "message": self._why_not}
            return self._process.ask(request)
        except (OSError, ValueError, EOFError, queue.Empty) as error:
            self._end()  # the next file gets a fresh one
            took_long = isinstance(error, queue.Empty)
            what = f"took more than {ANSWER_SECONDS:g} seconds" if took_long else "ended its reader"
            return {"error": "unread", "message": f"not checked: reading its manifest {what}"}

    def _end(self) -> None:
        if self._process is not None:
            self._process.end()
            self._process = None


class _Process:
    """The program of ``credentials_process``, running."""

    def __init__(self) -> None:
        # -P: the folder of the program, with its modules, is no place to import from
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the run, which first finishes what it is at
            text=True,
            encoding="ascii",
        )
        self._answers: queue.Queue[str] = queue.Queue()
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests: IO[str] = self._process.stdin
        listener = threading.Thread(
            target=self._listen, args=(self._process.stdout,), name="read-credentials", daemon=True
        )
        listener.start()

    def ask(self, request: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a request.

        Raises:
            OSError, ValueError, EOFError: if the process has ended.
            queue.Empty: if it takes too long.
        """
        self._requests.write(json.dumps(request) + "\n")
        self._requests.flush()
        return self.answer(ANSWER_SECONDS)

    def answer(self, seconds: float) -> Mapping[str, Any]:
        """What the process says next; see ``ask``."""
        line = self._answers.get(timeout=seconds)
        if not line:
            raise EOFError
        return json.loads(line)

    def end(self) -> None:
        """End it, however busy it is."""
        self._process.kill()
        with contextlib.suppress(OSError, ValueError):
            self._requests.close()
        self._process.wait()

    def _listen(self, lines: IO[str]) -> None:
        with contextlib.suppress(OSError, ValueError), lines:
            for line in lines:
                self._answers.put(line)
        self._answers.put("")


def _settings(trust: TrustList | None) -> dict[str, Any]:
    """Of c2pa-python: everything is checked, and nothing asked of other machines."""
    return {
        "core": {"allowed_network_hosts": []},
        "verify": {
            "verify_after_reading": True,
            "verify_trust": True,
            "remote_manifest_fetch": False,
            "ocsp_fetch": False,
        },
        "trust": {} if trust is None else {"user_anchors": trust.pem},
    }


def _judged(answer: Mapping[str, Any], remote: bool, has_list: bool) -> ContentCredentials:
    """What an answer of the process means."""
    if "error" in answer:
        message = plain_text(str(answer["message"]))
        if answer["error"] in ("absent", "unread", "memory", "large", "C2paNotSupported"):
            return ContentCredentials(True, remote, reason=message)
        return ContentCredentials(
            True, remote, intact=False, trusted=False, reason=f"it cannot be read: {message}"
        )
    faults = _codes(answer, "failure")
    against_file = [code for code in faults if code not in TRUST_FAULTS]
    successes = _codes(answer, "success")
    signed = SIGNED in successes
    intact = answer["state"] in ("Valid", "Trusted") and signed and not against_file
    trusted = signed and TRUSTED in successes
    manifest = answer["manifest"]
    signature = manifest.get("signature_info") or {}
    return ContentCredentials(
        True,
        remote,
        intact=intact,
        signer=_name(signature.get("common_name")) if signed else None,
        issuer=_name(signature.get("issuer")) if signed else None,
        trusted=trusted,
        signed_at=_name(signature.get("time")) if signed else None,
        made_with=_program(manifest),
        reason=_reason(intact, trusted, against_file, has_list),
    )


def _codes(answer: Mapping[str, Any], name: str) -> list[str]:
    """C2PA's names of what was found."""
    return [str(each.get("code")) for each in answer["results"].get(name) or ()]


def _name(value: object) -> str | None:
    return plain_text(value) if isinstance(value, str) else None


def _program(manifest: Mapping[str, Any]) -> str | None:
    told = manifest.get("claim_generator_info") or [{}]
    first = told[0] if isinstance(told, list) and isinstance(told[0], dict) else {}
    parts = [str(first[key]) for key in ("name", "version") if isinstance(first.get(key), str)]
    return plain_text(" ".join(parts)) or _name(manifest.get("claim_generator"))


def _reason(intact: bool, trusted: bool, faults: list[str], has_list: bool) -> str | None:
    told = []
    if not intact:
        named = ", ".join(dict.fromkeys(faults[:MAX_CODES])) or "its signature is not valid"
        told.append(f"not as it was signed ({named})")
    if not trusted:
        told.append(
            "the signer is not in the trust list" if has_list else "no trust list was given"
        )
    return plain_text("; ".join(told), 500)
