"""The API's document of itself: everything in it is described, has an example, and the examples are true to it."""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest

from rayhaul.errors import codes
from serve_app import app

#: Statuses at which an operation answers with data.
GOOD = {"200", "201"}


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return app.document()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def media_of(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield (where, media type, declaration) of every body that is sent or answered."""
    for name, operation in operations(document):
        for media_type, media in operation.get("requestBody", {}).get("content", {}).items():
            yield f"{name} asks", media_type, media
        for status, answer in operation["responses"].items():
            for media_type, media in answer.get("content", {}).items():
                yield f"{name} {status}", media_type, media


def examples_of(media: dict[str, Any]) -> list[Any]:
    if "example" in media:
        return [media["example"]]
    return [example["value"] for example in media.get("examples", {}).values()]


def check(document: dict[str, Any], schema: dict[str, Any], example: Any, where: str) -> None:
    """Check an example against a schema of the document (JSON Schema 2020-12, OpenAPI 3.1's own)."""
    whole = {**schema, "components": document["components"]}
    errors = [error.message for error in jsonschema_rs.Draft202012Validator(whole).iter_errors(example)]
    assert not errors, f"{where}: {errors}"


def test_everything_is_described(document: dict[str, Any]) -> None:
    """Operations, their parameters, their answers, every schema and every field of it."""
    silent = [name for name, operation in operations(document) if not operation.get("description")]
    for name, operation in operations(document):
        silent += [f"{name} {told['name']}" for told in operation.get("parameters", []) if not told.get("description")]
        silent += [f"{name} {status}" for status, told in operation["responses"].items() if not told["description"]]
    for name, schema in document["components"]["schemas"].items():
        if not schema.get("description"):
            silent.append(name)
        fields = schema.get("properties", {}).items()
        silent += [f"{name}.{field}" for field, told in fields if not told.get("description")]
    assert not silent


def test_every_body_has_an_example_that_is_true(document: dict[str, Any]) -> None:
    """Each body that is asked for or answered has one, and it is of its schema."""
    count = 0
    for where, _, media in media_of(document):
        examples = examples_of(media)
        assert examples, f"{where} has no example"
        for example in examples:
            check(document, media.get("schema", {}), example, where)
            count += 1
    print(f"{count} examples of bodies")
    assert count > 100


def test_every_operation_shows_an_answer(document: dict[str, Any]) -> None:
    """One that answers with data shows it; the others have no body to show."""
    for name, operation in operations(document):
        shown = [status for status, told in operation["responses"].items() if status in GOOD and "content" in told]
        assert shown or name == "DELETE /session", name


def test_parameters_and_schemas_have_examples(document: dict[str, Any]) -> None:
    """So that each can be tried out from the document alone."""
    for name, operation in operations(document):
        for parameter in operation.get("parameters", []):
            (example,) = examples_of(parameter)
            check(document, parameter["schema"], example, f"{name} {parameter['name']}")
    for name, schema in document["components"]["schemas"].items():
        (example,) = schema["examples"]
        check(document, schema, example, name)


def test_errors_are_told_by_their_codes(document: dict[str, Any]) -> None:
    """Each problem's example has that status and a code of ours; together they show every code of a refused request."""
    shown = set()
    for where, media_type, media in media_of(document):
        if media_type == "application/problem+json":
            for example in examples_of(media):
                assert example["status"] == int(where.rpartition(" ")[2]), where
                shown.add(example["code"])
    assert shown <= codes()
    assert shown == {
        "invalid_request",
        "unauthorized",
        "forbidden",
        "not_found",
        "conflict",
        "idempotency_mismatch",
        "rate_limited",
        "quota_exceeded",
        "egress_denied",
        "internal",
    }


def test_an_example_that_lies_is_found(document: dict[str, Any]) -> None:
    """The check of the others: a field of another type does not pass."""
    job = document["components"]["schemas"]["JobView"]
    with pytest.raises(AssertionError, match="JobView"):
        check(document, job, {**job["examples"][0], "attempt": "first"}, "JobView")
