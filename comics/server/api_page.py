"""The page ``/docs``: the API's description for people, made here and complete without a script.

The framework's own page loads its script from another machine, which this server's pages never do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from comics.pages.html_pages import render

PACKAGE, TEMPLATE = "comics.server", "api.html"
METHODS = ("get", "post", "put", "patch", "delete")


def api_page(description: Mapping[str, Any]) -> str:
    """HTML of an OpenAPI description."""
    info = description["info"]
    return render(
        TEMPLATE,
        package=PACKAGE,
        title=f"The API of {info['title']}",
        introduction=info.get("description", ""),
        operations=[
            _operation(path, method, parts[method], description)
            for path, parts in description["paths"].items()
            for method in METHODS
            if method in parts
        ],
        schemas=[
            (name, schema.get("description", ""), json.dumps(schema, indent=1, ensure_ascii=False))
            for name, schema in description.get("components", {}).get("schemas", {}).items()
        ],
    )


def _operation(
    path: str, method: str, parts: Mapping[str, Any], description: Mapping[str, Any]
) -> dict[str, Any]:
    fields = [
        (each["name"], f"in the {each['in']}", each.get("required", False), _told(each))
        for each in parts.get("parameters", ())
    ]
    for kind, body in parts.get("requestBody", {}).get("content", {}).items():
        schema = _resolved(body.get("schema", {}), description)
        required = schema.get("required", ())
        fields += [
            (name, kind, name in required, _told(each))
            for name, each in schema.get("properties", {}).items()
        ]
    answers = [
        (status, answer.get("description", ""), _schema_names(answer))
        for status, answer in sorted(parts.get("responses", {}).items())
    ]
    return {
        "method": method.upper(),
        "path": path,
        "summary": parts.get("summary", ""),
        "fields": fields,
        "answers": answers,
    }


def _told(each: Mapping[str, Any]) -> str:
    return str(each.get("description") or each.get("title") or "")


def _resolved(schema: Mapping[str, Any], description: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema itself where it is named by a reference into the description."""
    reference = schema.get("$ref", "")
    for part in reference.removeprefix("#/").split("/") if reference else ():
        description = description[part]
    return description if reference else schema


def _schema_names(answer: Mapping[str, Any]) -> list[str]:
    references = [
        body.get("schema", {}).get("$ref", "") for body in answer.get("content", {}).values()
    ]
    return [reference.rsplit("/", 1)[-1] for reference in references if reference]
