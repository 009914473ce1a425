"""The process that reads C2PA manifests, so that one that is made to break a reader breaks no run.

A program of its own, which imports nothing of this package: ``comics.data.custody.credentials``
starts it, gives it one request a line, and ends it when an answer takes too long. A request is
JSON: {"path", "type", "settings"}; so is an answer: {"state", "manifest", "results"}, of
c2pa-python's report, or {"error", "message"}.

What it reads is a stranger's. It may use ``MEMORY`` bytes at most, and its settings forbid all
requests to other machines.
"""

from __future__ import annotations

import contextlib
import json
import sys
from types import ModuleType

MEMORY = 4 << 30  # bytes of address space, where the system can limit it
MAX_REPORT = 8 << 20  # characters of an answer


def main() -> int:
    """Answer requests until there are no more."""
    _limit_memory()
    try:
        import c2pa
    except Exception as error:  # also of a native library that does not load
        _say({"error": "absent", "message": f"{type(error).__name__}: {error}"})
        return 1
    _say({"version": c2pa.__version__})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = _read(c2pa, request)
        except MemoryError:
            answer = {"error": "memory", "message": "too little memory"}
        except Exception as error:  # whatever the library raises is about the file
            answer = {"error": type(error).__name__.lstrip("_"), "message": str(error)[:2000]}
        _say(answer)
    return 0


def _read(c2pa: ModuleType, request: dict) -> dict:
    settings = c2pa.Settings.from_dict(request["settings"])
    with (
        open(request["path"], "rb") as stream,
        c2pa.Context(settings) as context,
        c2pa.Reader(request["type"], stream, context=context) as reader,
    ):
        text = reader.json()
        if len(text) > MAX_REPORT:
            return {"error": "large", "message": f"a report of {len(text)} characters"}
        report = json.loads(text)
        active = report.get("active_manifest")
        chosen = report.get("manifests", {}).get(active, {})
        kept = ("signature_info", "claim_generator", "claim_generator_info")
        return {
            "state": report.get("validation_state"),
            "manifest": {name: chosen.get(name) for name in kept},
            "results": (report.get("validation_results") or {}).get("activeManifest") or {},
        }


def _say(answer: dict) -> None:
    print(json.dumps(answer), flush=True)


def _limit_memory() -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


if __name__ == "__main__":
    sys.exit(main())
