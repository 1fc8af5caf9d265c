"""Presigned URLs for PUTs into one bucket's store, by AWS Signature Version 4 in the query.

botocore signs them too, for three times as much: it reads the URL again and derives the day's key anew for each, and
small files spend more on that than on anything else.

Source: S3, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)".
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


def presigned_put(
    base_url: str,
    key: str,
    *,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    credentials: Credentials,
    region: str,
    now: datetime,
    expires_s: int,
) -> str:
    """Return a URL for one PUT with exactly these headers; `base_url` is what stands before the object's key.

    The body is not signed. `now`: UTC.
    """
    moment = now.strftime("%Y%m%dT%H%M%SZ")
    day = moment[:8]
    scope = f"{day}/{region}/s3/aws4_request"
    host, path_before = _host_and_path(base_url)
    signed = {"host": host} | {name.lower(): " ".join(value.split()) for name, value in headers.items()}
    names = sorted(signed)
    asked = {
        **query,
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key_id}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(expires_s),
        "X-Amz-SignedHeaders": ";".join(names),
    }
    if credentials.session_token is not None:
        asked["X-Amz-Security-Token"] = credentials.session_token
    pairs = "&".join(sorted([f"{quote(name, safe='-_.~')}={quote(asked[name], safe='-_.~')}" for name in asked]))
    path = quote(key, safe="/~")
    lines = "".join([f"{name}:{signed[name]}\n" for name in names])
    request = f"PUT\n{path_before}{path}\n{pairs}\n{lines}\n{';'.join(names)}\nUNSIGNED-PAYLOAD"
    to_sign = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    signature = hmac.digest(_signing_key(credentials.secret_access_key, day, region), to_sign.encode(), "sha256").hex()
    return f"{base_url}{path}?{pairs}&X-Amz-Signature={signature}"


@lru_cache(maxsize=8)
def _signing_key(secret: str, day: str, region: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for text in (day, region, "s3", "aws4_request"):
        key = hmac.digest(key, text.encode(), "sha256")
    return key


@lru_cache(maxsize=8)
def _host_and_path(base_url: str) -> tuple[str, str]:
    """Return the Host header, and the path before the key. A scheme's own port is not in the header."""
    parts = urlsplit(base_url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    is_usual = parts.port is None or parts.port == {"http": 80, "https": 443}.get(parts.scheme)
    return (host if is_usual else f"{host}:{parts.port}"), parts.path
