"""What tests look for in the API's answers."""

from typing import Any

import httpx

from rayhaul.errors import codes


def check_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Check that the answer is a problem of that status and code, and carries its correlation id twice."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem: dict[str, Any] = answer.json()
    assert problem["status"] == status
    assert problem["code"] == code
    assert code in codes()
    assert problem["correlationId"] == answer.headers["x-correlation-id"]
    assert problem["title"]
    return problem
