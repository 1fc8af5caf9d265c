"""The ledger's key in a data directory: made once, kept, and still of use after another one was set."""

import base64
from pathlib import Path

from pydantic import SecretStr

from rayhaul.ledger.sealing import KEY_BYTES
from rayhaul.settings import LedgerSettings, Settings
from serve_app.starting import with_ledger_key

OTHER = b"k" * KEY_BYTES


def test_a_key_is_made_once_for_our_eyes_only(tmp_path: Path) -> None:
    """The same one at every start; the file has mode 0600; all other settings stay."""
    path = tmp_path / "ledger-key"
    settings = Settings(_env_file=None, ledger=LedgerSettings(pool_max=7))
    first, second = with_ledger_key(settings, path), with_ledger_key(settings, path)
    assert first.ledger.keys == second.ledger.keys
    assert [len(key) for key in first.ledger.keys] == [KEY_BYTES]
    assert path.stat().st_mode & 0o777 == 0o600
    assert (first.ledger.pool_max, settings.ledger.keys) == (7, ())


def test_a_key_that_is_set_comes_first(tmp_path: Path) -> None:
    """With one that is set none is made; one that was made before still opens what it sealed."""
    path = tmp_path / "ledger-key"
    is_set = Settings(_env_file=None, ledger=LedgerSettings(secret_key=SecretStr(base64.b64encode(OTHER).decode())))
    assert with_ledger_key(is_set, path).ledger.keys == (OTHER,)
    assert not path.exists()
    (made,) = with_ledger_key(Settings(_env_file=None), path).ledger.keys
    assert with_ledger_key(is_set, path).ledger.keys == (OTHER, made)
