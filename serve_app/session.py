"""Signing in for the page: a cookie in the place of the `Authorization` header.

Laws of this file:
1. The cookie holds the API key itself, out of reach of scripts (HttpOnly): there is no second kind of secret that would
   have to be revoked, limited and scoped.
2. A request that comes with the cookie and changes something must be the page's own. It carries a header that another
   site's page can not send without a preflight, which nobody answers; and the cookie is SameSite=Strict besides.
   Source: OWASP Cross-Site Request Forgery Prevention, "Employing custom request headers".
3. Nobody has a key yet who signs in, so it is the address that may not ask too often: each try costs a look into the
   ledger. Guessing a key is hopeless at any rate.
"""

from fastapi import APIRouter, Request
from starlette.responses import Response

from rayhaul.errors import Forbidden
from rayhaul.ledger.base import ApiKey
from rayhaul.wire import SessionReport, SessionRequest
from serve_app import limits
from serve_app.auth import COOKIE, KeyHeld, Keyring, is_the_page
from serve_app.bodies import parsed
from serve_app.limits import Limiter
from serve_app.openapi import OPEN, json_body, problems_of
from serve_app.views import reply
from serve_app.visit import visit_of

routes = APIRouter(tags=["page"])

#: A working day and some; the key itself may end before.
_COOKIE_S = 12 * 3600


@routes.post(
    "/session",
    response_model=SessionReport,
    responses=problems_of(400, 401, 403, 413, 422, 429, 503),
    openapi_extra={**json_body(SessionRequest), **OPEN},
)
async def sign_in(request: Request) -> Response:
    """Sign the page in: check a key, and keep it in a cookie. Needs the header `X-Rayhaul-Page`."""
    if not is_the_page(request):
        # Else another site could sign a person in under a key of its own, and see what they ask for.
        raise Forbidden("only the page itself signs in")
    limiter: Limiter = request.app.state.limiter
    visit = visit_of(request.scope)
    visit.rate = limiter.take(limits.address_of(request) or _peer(request))
    limits.check(visit.rate)
    asked = await parsed(request, SessionRequest)
    keyring: Keyring = request.app.state.keyring
    text = asked.key.strip()
    answer = reply(_report(await keyring.key(f"Bearer {text}")))
    answer.set_cookie(
        COOKIE, text, max_age=_COOKIE_S, path="/", secure=_is_tls(request), httponly=True, samesite="strict"
    )
    return answer


@routes.get("/session", response_model=SessionReport, responses=problems_of(401, 403, 429, 503))
async def show_session(key: KeyHeld) -> Response:
    """Say who is signed in, or whose key was sent."""
    return reply(_report(key))


@routes.delete("/session", status_code=204, responses=problems_of(403), openapi_extra=OPEN)
async def sign_out(request: Request) -> Response:
    """Sign the page out; the key itself is left as it is."""
    if COOKIE in request.cookies and not is_the_page(request):
        raise Forbidden("only the page itself signs out")
    answer = Response(status_code=204)
    answer.delete_cookie(COOKIE, path="/", secure=_is_tls(request), httponly=True, samesite="strict")
    return answer


def _report(key: ApiKey) -> SessionReport:
    return SessionReport(user_id=key.user_id, role=key.role, scopes=sorted(key.scopes))


def _peer(request: Request) -> str:
    return request.client.host if request.client else ""


def _is_tls(request: Request) -> bool:
    """Whether the browser came by TLS; the proxy that ended it says so."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
