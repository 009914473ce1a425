"""The schema of results and errors, for the description of the API."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from comics.server.errors import CODES

PREFIX = "#/components/schemas/"
LOCAL = "#/$defs/"
ERROR = {
    "type": "object",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message"],
            "additionalProperties": False,
            "properties": {
                "code": {"enum": sorted(CODES)},
                "message": {"type": "string", "minLength": 1},
            },
        }
    },
}


COMPARISON = {
    "type": "object",
    "required": ["matches", "sentence", "page"],
    "additionalProperties": False,
    "properties": {
        "matches": {"description": "Whether both show a common scene.", "type": "boolean"},
        "sentence": {"description": "What was found, for people.", "type": "string"},
        "page": {"description": "HTML, as comics compare writes it.", "type": "string"},
    },
}


PLACE = {
    "type": "object",
    "required": ["ahead"],
    "additionalProperties": False,
    "properties": {"ahead": {"type": "integer", "minimum": 0}},
}


def results_schemas() -> dict[str, object]:
    """Name -> schema: "Results", the document of ``comics detect``, and what it is made of."""
    text = (files("comics.runs") / "results.schema.json").read_text(encoding="utf-8")
    # A reference to another part of that file leads nowhere from inside an API's description
    schema = json.loads(text.replace(LOCAL, f"{PREFIX}results_"))
    schema.pop("$schema", None)
    parts = {f"results_{name}": part for name, part in schema.pop("$defs").items()}
    return {"Results": schema, **parts, "Place": PLACE, "Comparison": COMPARISON, "Error": ERROR}


def content(name: str) -> dict[str, object]:
    """A JSON body of a schema."""
    return {"application/json": {"schema": {"$ref": PREFIX + name}}}


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Responses with the codes that go with each status."""
    return {
        status: {
            "description": ", ".join(code for code, own in CODES.items() if own == status),
            "content": content("Error"),
        }
        for status in statuses
    }
