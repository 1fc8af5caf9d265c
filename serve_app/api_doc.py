"""Writes docs/reference/api.md from the OpenAPI document: `python -m serve_app.api_doc`."""

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from serve_app.app import document

_HEAD = """# HTTP API

Generated from the OpenAPI document by `make docs`; a running cluster serves the document itself at `/openapi.json`.

"""
_ERRORS = """
Errors are problem documents (RFC 9457); [error codes](errors.md) lists what `code` can say. Any operation may answer
400, 414 and 431, and any that needs a key 401, 403, 429 and 503; they are not repeated below.

"""
_EVERYWHERE = frozenset({"400", "401", "403", "414", "429", "431", "503"})

Json = Mapping[str, Any]


def api_doc() -> str:
    """Return the document: operations by their tags, then the schemas."""
    found = document()
    return "".join([_HEAD, found["info"]["description"], _ERRORS, *_operations(found), *_schemas(found)])


def _operations(found: Json) -> Iterator[str]:
    by_tag: dict[str, list[str]] = {}
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            by_tag.setdefault(operation["tags"][0], []).append("".join(_operation(method.upper(), path, operation)))
    for tag, written in by_tag.items():
        yield f"## {tag.capitalize()}\n\n"
        yield from written


def _operation(method: str, path: str, operation: Json) -> Iterator[str]:
    yield f"### {method} {path}\n\n{_plain(operation['description'])}\n\n"
    parameters = operation.get("parameters", [])
    if parameters:
        yield "| parameter | in | type | meaning |\n| --- | --- | --- | --- |\n"
        for told in parameters:
            yield f"| `{told['name']}` | {told['in']} | {_type(told['schema'])} | {_cell(told['description'])} |\n"
        yield "\n"
    if "requestBody" in operation:
        yield from _body("Asks with", operation["requestBody"]["content"]["application/json"])
    for status, answer in operation["responses"].items():
        if status < "400":
            yield from _answer(status, answer)
    refusals = [f"{status} ({_plain(told['description'])})" for status, told in _own_refusals(operation)]
    if refusals:
        yield f"Refusals of its own: {'; '.join(refusals)}\n\n"


def _own_refusals(operation: Json) -> Iterator[tuple[str, Json]]:
    for status, told in operation["responses"].items():
        if status >= "400" and status not in _EVERYWHERE:
            yield status, told


def _answer(status: str, answer: Json) -> Iterator[str]:
    content = answer.get("content", {})
    if "application/json" in content:
        yield from _body(f"Answers {status} with", content["application/json"])
        return
    yield f"Answers {status}: {_plain(answer['description'])}\n\n"
    for media_type, media in list(content.items())[:1]:
        yield f"<!-- answer: {media_type} -->\n```text\n{media['example'].rstrip()}\n```\n\n"


def _body(what: str, media: Json) -> Iterator[str]:
    schema = media.get("schema", {})
    yield f"{what} {_type(schema) if schema else 'JSON'}:\n\n"
    yield f"```json\n{json.dumps(media['example'], indent=2, ensure_ascii=False)}\n```\n\n"


def _schemas(found: Json) -> Iterator[str]:
    yield "## Schemas\n\n"
    for name, schema in found["components"]["schemas"].items():
        yield f"### {name}\n\n{_plain(schema['description'])}\n\n"
        if "enum" in schema:
            yield f"One of {', '.join(f'`{value}`' for value in schema['enum'])}.\n\n"
        if "properties" in schema:
            yield from _fields(schema)


def _fields(schema: Json) -> Iterator[str]:
    needed = frozenset(schema.get("required", ()))
    yield "| field | type | needed | meaning |\n| --- | --- | --- | --- |\n"
    for name, told in schema["properties"].items():
        is_needed = "yes" if name in needed else ""
        yield f"| `{name}` | {_type(told)} | {is_needed} | {_cell(told.get('description', ''))} |\n"
    yield "\n"


def _type(schema: Json) -> str:
    """Return a schema in few words: `string`, a link to what it names, `list of …`, `… or null`."""
    match schema:
        case {"$ref": reference}:
            name = reference.rpartition("/")[2]
            told = f"[{name}](#{name.lower()})"
        case {"anyOf": choices}:
            told = " or ".join(map(_type, choices))
        case {"const": ""}:
            return "empty"
        case {"const": value}:
            told = f"`{value}`"
        case {"enum": values}:
            told = ", ".join(f"`{value}`" for value in values)
        case {"type": "array", "items": inner}:
            told = f"list of {_type(inner)}"
        case {"type": "object", "additionalProperties": dict(inner)} if inner:
            told = f"object of {_type(inner)}"
        case {"type": "string", "format": form}:
            told = f"string ({form})"
        case _:
            told = str(schema.get("type", "any"))
    return told


def _plain(text: str) -> str:
    return " ".join(text.split())


def _cell(text: str) -> str:
    return _plain(text).replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(api_doc())
