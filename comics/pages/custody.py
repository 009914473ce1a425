"""The chain of custody, for people: of a run, and of each of its files.

What results.json says of a file's origin is a stranger's text, and the document itself may be a
stranger's: what is not of the type that it should be is left out, and a page escapes the rest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Pairs = list[tuple[str, str]]

TIMES = {
    "exif_taken": "taken",
    "exif_digitised": "digitised",
    "exif_changed": "changed",
    "xmp_created": "created (XMP)",
    "xmp_changed": "changed (XMP)",
    "xmp_metadata_changed": "metadata changed (XMP)",
    "photoshop_created": "created (Photoshop)",
}
SHOWN_VERSIONS = ("comics", "torch", "python", "platform")
MAX_SHOWN = 500  # characters of a text
MAX_WORDS = 40  # of a command line
SHA256 = re.compile("[0-9a-f]{64}")
SHELL_SIGNS = frozenset('"$*?;&|<>()#!')


def run_facts(run: Mapping) -> Pairs:
    """(name, text) of a run; nothing of one before schema 2.1."""
    if not run:
        return []
    facts = [("Started", _text(run.get("started"))), ("Ended", _text(run.get("ended")))]
    parts = run.get("parts")
    if isinstance(parts, int) and parts > 1:
        begun = [_text(part.get("started")) for part in _mappings(run.get("earlier_parts"))]
        facts.append(("Parts", f"{parts}; begun before at {', '.join(begun)}"))
    versions = run.get("versions")
    if isinstance(versions, Mapping):
        told = [f"{name} {_text(versions[name])}" for name in SHOWN_VERSIONS if name in versions]
        facts.append(("Software", ", ".join(told)))
    facts.append(("SHA-256 of the weights", _text(run.get("weights_sha256"))))
    facts.append(("SHA-256 of the trust list", _text(run.get("trust_list_sha256"))))
    facts.append(("Command", _command(run.get("command_line"))))
    return [(name, text) for name, text in facts if text]


def file_facts(entry: Mapping) -> Pairs:
    """(name, text) of a file, from its entry in results.json; nothing of one before schema 2.1."""
    size = entry.get("bytes")
    facts = [
        ("SHA-256", _text(entry.get("sha256"))),
        ("Size", f"{size:,} bytes" if isinstance(size, int) else ""),
        ("Type", _text(entry.get("type"))),
        ("Modified", _text(entry.get("modified"))),
    ]
    if entry.get("changed_during_run") is True:
        facts.append(("Changed", "while the run went on"))
    metadata, signed = entry.get("metadata"), entry.get("c2pa")
    if isinstance(metadata, Mapping):
        facts += _metadata_facts(metadata)
    if isinstance(signed, Mapping):
        facts.append(("Content Credentials", credentials_sentence(signed)))
    return [(name, text) for name, text in facts if text]


def sha256_of(entry: Mapping) -> str:
    """SHA-256 of a file, from its entry in results.json; "" where it is not known."""
    told = _text(entry.get("sha256"))
    return told if SHA256.fullmatch(told) else ""


def credentials_sentence(signed: Mapping) -> str:
    """What C2PA says of a file; integrity and trust are two things."""
    if signed.get("present") is not True:
        told = "none" if signed.get("present") is False else "not looked for"
        return _with_reason(told, signed)
    intact, trusted = signed.get("intact"), signed.get("trusted")
    if not isinstance(intact, bool):
        return _with_reason("present", signed)
    parts = ["intact: nothing changed since it was signed" if intact else "broken"]
    who = " of ".join(filter(None, (_text(signed.get("signer")), _text(signed.get("issuer")))))
    if who:
        parts.append(f"signed by {who}, who is {'' if trusted is True else 'not '}trusted")
    for name, what in (("signed_at", "at"), ("made_with", "made with")):
        if text := _text(signed.get(name)):
            parts.append(f"{what} {text}")
    return _with_reason("; ".join(parts), signed)


def custody_counts(entries: Sequence[Mapping]) -> Pairs:
    """(name, text) of what stands out among files; nothing where none of them has facts."""
    known = [entry for entry in entries if entry.get("sha256")]
    if not known:
        return []
    signed = [each for entry in known if isinstance(each := entry.get("c2pa"), Mapping)]
    present = [each for each in signed if each.get("present") is True]
    facts = [("SHA-256 recorded", f"of {len(known)} of {len(entries)} files")]
    if present:
        told = [f"in {len(present)} file{_s(present)}"]
        for name, value, what in (
            ("intact", True, "intact"),
            ("intact", False, "broken"),
            ("trusted", True, "of a trusted signer"),
        ):
            if count := sum(each.get(name) is value for each in present):
                told.append(f"{count} {what}")
        facts.append(("Content Credentials", ", ".join(told)))
    elif signed:
        facts.append(("Content Credentials", "in no file, as in most pictures"))
    for what, found in (
        ("Thumbnail shows something else", [e for e in known if _thumbnail_differs(e)]),
        ("Changed during the run", [e for e in known if e.get("changed_during_run") is True]),
    ):
        if found:
            names = ", ".join(_text(entry.get("file_name")) for entry in found[:5])
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            facts.append((what, f"{names}{more}"))
    return facts


def _metadata_facts(metadata: Mapping) -> Pairs:
    times = metadata.get("times")
    told = times.items() if isinstance(times, Mapping) else ()
    small = metadata.get("thumbnail")
    return [
        ("Camera", _text(metadata.get("camera"))),
        ("Software named in it", _list(metadata.get("software"))),
        ("Times in it", "; ".join(f"{TIMES[k]} {_text(v)}" for k, v in told if k in TIMES)),
        ("GPS position", "present" if metadata.get("has_gps") is True else "none"),
        ("Says that it is", _text(metadata.get("source_type"))),
        ("Thumbnail in it", _thumbnail(small) if isinstance(small, Mapping) else ""),
        ("Not read", _list(metadata.get("left_out"))),
    ]


def _thumbnail(small: Mapping) -> str:
    if small.get("differs") is True:
        return "shows something else than the picture: it was changed after the thumbnail was made"
    return "agrees with the picture" if small.get("differs") is False else "could not be compared"


def _thumbnail_differs(entry: Mapping) -> bool:
    metadata = entry.get("metadata")
    small = metadata.get("thumbnail") if isinstance(metadata, Mapping) else None
    return isinstance(small, Mapping) and small.get("differs") is True


def _with_reason(told: str, signed: Mapping) -> str:
    reason = _text(signed.get("reason"))
    return f"{told} ({reason})" if reason else told


def _command(words: object) -> str:
    if not isinstance(words, list):
        return ""
    shown = [_quoted(_text(word)) for word in words[:MAX_WORDS]]
    return " ".join(shown) + (f" … ({len(words)} words)" if len(words) > MAX_WORDS else "")


def _quoted(word: str) -> str:
    """A word as a shell would take it, but for its escapes."""
    plain = word and not any(letter.isspace() or letter in SHELL_SIGNS for letter in word)
    return word if plain else f"'{word}'"


def _list(value: object) -> str:
    return ", ".join(map(_text, value)) if isinstance(value, list) else ""


def _text(value: object) -> str:
    return value[:MAX_SHOWN] if isinstance(value, str) else ""


def _mappings(value: object) -> Iterable[Mapping[str, Any]]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def _s(items: Sequence) -> str:
    return "" if len(items) == 1 else "s"
