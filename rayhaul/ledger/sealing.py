"""Secrets at rest: what of a row nobody may read who has the database but not the key.

    v1.3f9a21c7.…base64 of salt (16 bytes), nonce (12), AES-256-GCM ciphertext with its tag
    form  key id

Laws of this file:
1. Each process seals under a key of its own, derived from the setting's by HKDF (RFC 5869) and a random salt, with a
   counter for the nonce: no pair of both comes twice, however many rows are written (NIST SP 800-38D, 8).
2. What is sealed is bound to its row: it does not open anywhere else.
3. The first key seals, all of them open: keys are changed by putting a new one before the old one.
4. Without keys nothing is sealed, and what was written so stays readable.
"""

import base64
import hashlib
import hmac
import itertools
import json
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from rayhaul.errors import ServiceError

KEY_BYTES = 32
#: Stands for a key where nothing is sealed.
UNSEALED = "none"

_FORM = "v1"
_SALT_BYTES = 16
_NONCE_BYTES = 12
#: Derived keys that are kept: one for each process that wrote what is being read.
_DERIVED_MAX = 1024


class SealBroken(ServiceError):
    """A secret in the ledger can not be opened."""


def key_id(key: bytes) -> str:
    """Return what a key is called in the ledger; it tells nothing of the key."""
    return hashlib.sha256(b"rayhaul ledger key:" + key).hexdigest()[:8]


class Sealer:
    """Seals and opens JSON documents. May be used by several threads."""

    def __init__(self, keys: Sequence[bytes] = (), random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._keys = {key_id(key): key for key in keys}
        self._derived: dict[tuple[str, bytes], AESGCM] = {}
        self._salt = random_bytes(_SALT_BYTES)
        self._nonces = itertools.count(1)

    @property
    def key_ids(self) -> Sequence[str]:
        """The keys there are, the one that seals first."""
        return list(self._keys)

    @property
    def seals_with(self) -> str:
        """The id of the key that seals; UNSEALED where there is none."""
        return next(iter(self._keys), UNSEALED)

    def seal(self, document: Any, about: str) -> Any:
        """Return the document as a text that opens with the same `about` only; the document itself without keys."""
        if not self._keys:
            return document
        name = self.seals_with
        nonce = next(self._nonces).to_bytes(_NONCE_BYTES)
        plain = json.dumps(document, separators=(",", ":")).encode()
        sealed = self._cipher(name, self._salt).encrypt(nonce, plain, about.encode())
        return f"{_FORM}.{name}.{base64.b64encode(self._salt + nonce + sealed).decode()}"

    def fingerprints(self, text: str) -> Sequence[str]:
        """Return what stands for a text that nobody may guess without the key: under the newest key first."""
        keys = list(self._keys.values()) or [b""]
        return [hmac.new(b"rayhaul fingerprint:" + key, text.encode(), hashlib.sha256).hexdigest() for key in keys]

    def open(self, sealed: Any, about: str) -> Any:
        """Return the document that was sealed; what is not sealed comes back as it is.

        Raises: SealBroken where its key is not here, or it was changed, or belongs to another row.
        """
        if not is_sealed(sealed):
            return sealed
        _, name, encoded = sealed.split(".")
        if name not in self._keys:
            raise SealBroken(f"a secret in the ledger is sealed with key {name}, which is not configured")
        content = base64.b64decode(encoded)
        salt, nonce = content[:_SALT_BYTES], content[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES]
        try:
            plain = self._cipher(name, salt).decrypt(nonce, content[_SALT_BYTES + _NONCE_BYTES :], about.encode())
        except InvalidTag:
            raise SealBroken(f"a secret in the ledger does not open: {about}") from None
        return json.loads(plain)

    def _cipher(self, name: str, salt: bytes) -> AESGCM:
        cipher = self._derived.get((name, salt))
        if cipher is None:
            derived = HKDF(SHA256(), KEY_BYTES, salt, b"rayhaul ledger v1").derive(self._keys[name])
            if len(self._derived) >= _DERIVED_MAX:
                self._derived.clear()
            cipher = self._derived[name, salt] = AESGCM(derived)
        return cipher


#: Seals nothing.
PLAIN = Sealer()


def is_sealed(value: Any) -> bool:
    """Whether this is what `Sealer.seal` makes; no URL and no document of ours looks so."""
    return isinstance(value, str) and value.startswith(f"{_FORM}.")


def seal_spec(document: Mapping[str, Any], job_id: str, sealer: Sealer) -> dict[str, Any]:
    """Return a job's spec with what may be secret in it sealed: all that names or opens a place."""
    if sealer.seals_with == UNSEALED:
        return dict(document)
    secret = {name: document[name] for name in _SECRET}
    rest = {name: value for name, value in document.items() if name not in _SECRET}
    return {**rest, "sealed": sealer.seal(secret, f"job {job_id}")}


def open_spec(document: Mapping[str, Any], job_id: str, sealer: Sealer) -> Mapping[str, Any]:
    """Raises: SealBroken."""
    if "sealed" not in document:
        return document
    return {**document, **sealer.open(document["sealed"], f"job {job_id}")}


#: URLs may have user info and signed queries, headers have tokens.
_SECRET = ("url", "mirrors", "headers", "webhook", "refresh_webhook")
