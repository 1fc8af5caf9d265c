"""API keys: how one is made, read and checked.

    rayhaul_live_4kQ0ZbR7_0aGh…(43)…x_2Bq9Zk
    prefix       key id   secret      checksum

Laws of this file:
1. The secret is 256 random bits and is shown once; what is kept is its SHA-256. A slow hash would add nothing: nobody
   guesses 256 bits.
2. The checksum (CRC-32 of all before it) tells a typing error, or a key cut short, from a wrong key without asking the
   ledger; it keeps nothing secret. The fixed prefix lets secret scanners find leaked keys.
"""

import hashlib
import hmac
import re
import zlib
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from rayhaul.errors import Unauthorized
from rayhaul.ledger.base import ApiKey, Role, Scope

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX = "rayhaul_live"
_ID_LENGTH = 8
#: Random bytes that a key's id is made from.
KEY_ID_BYTES = _ID_LENGTH
_SECRET_BYTES = 32
_SECRET_LENGTH = 43
_CHECKSUM_LENGTH = 6
_KEY = re.compile(
    rf"({_PREFIX}_([0-9A-Za-z]{{{_ID_LENGTH}}})_([0-9A-Za-z]{{{_SECRET_LENGTH}}}))_([0-9A-Za-z]{{{_CHECKSUM_LENGTH}}})"
)

#: No secret has this SHA-256 that anybody could know.
_NOBODY = "0" * 64


def new_key(
    user_id: str,
    role: Role,
    name: str,
    now: datetime,
    random_bytes: Callable[[int], bytes],
    *,
    scopes: frozenset[Scope] = frozenset(Scope),
    expires_at: datetime | None = None,
) -> tuple[str, ApiKey]:
    """Return the key's text, to be shown once, and its record. `random_bytes` is `secrets.token_bytes` but in tests."""
    key_id = _base62(int.from_bytes(random_bytes(KEY_ID_BYTES)) % 62**_ID_LENGTH, _ID_LENGTH)
    secret = _base62(int.from_bytes(random_bytes(_SECRET_BYTES)), _SECRET_LENGTH)
    body = f"{_PREFIX}_{key_id}_{secret}"
    record = ApiKey(
        key_id=key_id,
        user_id=user_id,
        role=role,
        secret_sha256=_sha256(secret),
        name=name,
        created_at=now,
        scopes=scopes,
        expires_at=expires_at,
    )
    return f"{body}_{_checksum(body)}", record


def parse(text: str) -> tuple[str, str]:
    """Return the key id and the SHA-256 of the secret, in hex.

    Raises: Unauthorized where the text is no key, or one with a typing error.
    """
    found = _KEY.fullmatch(text)
    if found is None:
        raise Unauthorized("this is not an API key")
    body, key_id, secret, checksum = found.groups()
    if checksum != _checksum(body):
        raise Unauthorized("the API key has a typing error")
    return key_id, _sha256(secret)


def matches(record: ApiKey | None, secret_sha256: str) -> bool:
    """Whether the secret is the record's; found out in the same time for any wrong one, and for no record."""
    expected = _NOBODY if record is None else record.secret_sha256
    return hmac.compare_digest(expected, secret_sha256) and record is not None


def check(record: ApiKey, now: datetime) -> None:
    """Raises: Unauthorized where the key is revoked or, from its last instant on, expired."""
    if record.revoked_at is not None:
        raise Unauthorized("the API key was revoked")
    if record.expires_at is not None and record.expires_at <= now:
        raise Unauthorized("the API key has expired")


def successor(old: ApiKey, now: datetime, random_bytes: Callable[[int], bytes]) -> tuple[str, ApiKey]:
    """Return the text and the record of a key that takes the place of `old`: it may do the same for as long."""
    expires_at = None if old.expires_at is None else now + (old.expires_at - old.created_at)
    return new_key(old.user_id, old.role, old.name, now, random_bytes, scopes=old.scopes, expires_at=expires_at)


def retiring(old: ApiKey, now: datetime, overlap: timedelta) -> ApiKey:
    """Return `old` as it is once it has a successor: it ends after `overlap`, or when it would have ended anyway."""
    until = now + overlap
    return replace(old, expires_at=until if old.expires_at is None else min(until, old.expires_at))


def _sha256(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _checksum(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECKSUM_LENGTH)


def _base62(value: int, length: int) -> str:
    digits = []
    for _ in range(length):
        value, digit = divmod(value, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
