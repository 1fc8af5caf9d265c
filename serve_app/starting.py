"""What both starts share, embedded and attached: the data directory, the ledger, the first key, the wait."""

import asyncio
import base64
import fcntl
import os
import secrets
import time
import urllib.error
import urllib.request
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from pydantic import SecretStr

from rayhaul import keys
from rayhaul.errors import ServiceError, Unavailable
from rayhaul.ledger import connect, migrate, resealing
from rayhaul.ledger.base import Batch, Role, Viewer
from rayhaul.ledger.failures import DATABASE_ERRORS, classified
from rayhaul.ledger.sealing import KEY_BYTES, Sealer
from rayhaul.ledger.store import open_ledger
from rayhaul.settings import Settings

_READY_POLL_S = 0.05
_PROBE_TIMEOUT_S = 5.0


class StartRefused(ServiceError):
    """The cluster cannot start here."""


def locked(data_dir: Path, *, busy: str) -> IO[str]:
    """Make the data directory where it is missing, and hold its lock. Raises: StartRefused, with `busy` in use."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        lock = (data_dir / "lock").open("w")
    except OSError as error:
        raise StartRefused(f"cannot write to the data directory {data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise StartRefused(busy) from error
    return lock


def write_private(path: Path, text: str) -> None:
    """Write a secret that only we can read, whole or not at all."""
    draft = path.with_suffix(".new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    draft.replace(path)


def check_ledger(settings: Settings, ledger_url: str) -> None:
    """Make sure that the ledger can be reached and was not written by a newer Rayhaul; it may be older, or not be yet.

    Raises: ServiceError, Unavailable.
    """
    parsed = connect.parse_url(ledger_url)
    path = connect.sqlite_file(parsed)
    if path is not None and not path.exists():
        return
    engine = connect.readers(parsed, settings.ledger)
    try:
        engine.connect().close()
    except DATABASE_ERRORS as err:
        raise (classified(err) or err) from err
    finally:
        engine.dispose()
    with suppress(Unavailable):
        migrate.check(ledger_url)
        resealing.check(ledger_url, Sealer(settings.ledger.keys), writes=False)


def prepare_ledger(settings: Settings, ledger_url: str) -> bool:
    """Bring the ledger up to date, and its secrets under the newest key; tell whether it knows any API key.

    Nobody else may write to it meanwhile.

    Raises: ServiceError, Unavailable.
    """

    async def prepare() -> bool:
        ledger = open_ledger(settings.ledger, ledger_url)
        try:
            return bool(await ledger.keys(Viewer("operator", Role.OPERATOR)))
        finally:
            await ledger.close()

    knows_keys = asyncio.run(prepare())
    resealing.reseal(ledger_url, Sealer(settings.ledger.keys))
    return knows_keys


def with_ledger_key(settings: Settings, path: Path) -> Settings:
    """Return the settings with a key for the ledger's secrets: those that are set, and the one that lies at `path`.

    It is made where there is none at all. A key that was made here still opens what it sealed once another one is set.
    """
    keys = list(settings.ledger.keys)
    if not keys and not path.exists():
        write_private(path, base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode() + "\n")
    texts = [base64.b64encode(key).decode() for key in keys]
    if path.exists():
        texts.append(path.read_text().strip())
    ledger = settings.ledger.model_copy(update={"secret_key": SecretStr(",".join(texts))})
    return settings.model_copy(update={"ledger": ledger})


def make_operator_key(settings: Settings, ledger_url: str, path: Path, why: str) -> None:
    """Make an operator's key and write it to `path`. Raises: ServiceError, Unavailable."""
    text, record = keys.new_key("operator", Role.OPERATOR, why, datetime.now(UTC), secrets.token_bytes)

    async def commit() -> None:
        ledger = open_ledger(settings.ledger, ledger_url)
        try:
            await ledger.commit(Batch(keys=[record]))
        finally:
            await ledger.close()

    asyncio.run(commit())
    write_private(path, text + "\n")


def await_ready(url: str, *, timeout_s: float) -> None:
    """Return when the API at `url` says that it is ready. Raises: ServiceError."""
    deadline_s = time.monotonic() + timeout_s
    last = "no answer"
    while time.monotonic() < deadline_s:
        try:
            with urllib.request.urlopen(f"{url}/readyz", timeout=_PROBE_TIMEOUT_S):  # noqa: S310 - our own http URL
                return
        except urllib.error.HTTPError as error:
            last = f"status {error.code}"
            error.close()
        except OSError as error:
            last = str(error)
        time.sleep(_READY_POLL_S)
    raise ServiceError(f"the API did not become ready within {timeout_s:.0f} s ({last})")


def seen_from_head(host: str, port: int) -> str:
    """Return the URL at which the head itself finds what listens on an address.

    >>> seen_from_head("0.0.0.0", 8000), seen_from_head("::1", 80)
    ('http://127.0.0.1:8000', 'http://[::1]:80')
    """
    reachable = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - read, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"
