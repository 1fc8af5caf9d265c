"""API keys: made, listed, rotated and revoked by operators."""

import secrets
from datetime import timedelta

from fastapi import APIRouter, Request
from starlette.responses import Response

from rayhaul.errors import NotFound
from rayhaul.keys import new_key, successor
from rayhaul.ledger.base import Role, Scope
from rayhaul.policy.admission import InvalidField, aware
from rayhaul.wire import KeyCreated, KeyRequest, KeysPage, KeyView, RotateRequest
from serve_app.auth import Operator
from serve_app.bodies import parsed
from serve_app.openapi import json_body, problems_of
from serve_app.replica import PathId, replica_of
from serve_app.views import key_created, key_view, reply

routes = APIRouter(tags=["keys"])


@routes.post(
    "/keys",
    status_code=201,
    response_model=KeyCreated,
    responses=problems_of(400, 401, 403, 413, 422, 503),
    openapi_extra=json_body(KeyRequest),
)
async def create_key(request: Request, operator: Operator) -> Response:  # noqa: ARG001 - the check is the use
    """Make a key. Its text is in this answer and never shown again. Operators only."""
    replica = replica_of(request)
    asked = await parsed(request, KeyRequest)
    expires_at = aware("expiresAt", asked.expires_at)
    if expires_at is not None and expires_at <= replica.now:
        raise InvalidField("expiresAt", "the time is past")
    text, key = new_key(
        asked.user,
        Role(asked.role),
        asked.name,
        replica.now,
        secrets.token_bytes,
        scopes=frozenset(map(Scope, asked.scopes)),
        expires_at=expires_at,
    )
    await replica.finish(replica.plane.create_key(key))
    return reply(key_created(key, text), status=201, headers={"Location": f"/keys/{key.key_id}"})


@routes.get("/keys", response_model=KeysPage, responses=problems_of(401, 403, 503))
async def list_keys(request: Request, operator: Operator) -> Response:
    """List the keys, without their secrets. Operators only."""
    return reply(KeysPage(keys=[key_view(key) for key in await replica_of(request).ledger.keys(operator)]))


@routes.post(
    "/keys/{key_id}/rotate",
    status_code=201,
    response_model=KeyCreated,
    responses=problems_of(400, 401, 403, 404, 409, 413, 422, 503),
    openapi_extra=json_body(RotateRequest),
)
async def rotate_key(request: Request, operator: Operator, key_id: PathId) -> Response:  # noqa: ARG001
    """Make a key in the place of another one, which ends after the overlap. Operators only.

    The new key may do what the old one may, for as long; its text is in this answer and never shown again. 409 where
    the old key is over already.
    """
    replica = replica_of(request)
    asked = await parsed(request, RotateRequest)
    old = await replica.ledger.key(key_id)
    if old is None:
        raise NotFound
    text, key = successor(old, replica.now, secrets.token_bytes)
    overlap = timedelta(seconds=asked.overlap_seconds)
    await replica.finish(replica.plane.rotate_key(key_id, key, replica.now, overlap))
    replica.keyring.forget(key_id)
    return reply(key_created(key, text), status=201, headers={"Location": f"/keys/{key.key_id}"})


@routes.delete("/keys/{key_id}", response_model=KeyView, responses=problems_of(401, 403, 404, 503))
async def revoke_key(request: Request, operator: Operator, key_id: PathId) -> Response:  # noqa: ARG001
    """Revoke a key; it is refused everywhere within seconds. Doing it again changes nothing. Operators only."""
    replica = replica_of(request)
    key = await replica.finish(replica.plane.revoke_key(key_id, replica.now))
    replica.keyring.forget(key_id)
    return reply(key_view(key))
