"""API keys: made, read, refused."""

import hashlib
import random
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul import keys
from rayhaul.errors import Unauthorized
from rayhaul.ledger.base import ApiKey, Role

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def make(seed: int = 0, expires_at: datetime | None = None) -> tuple[str, ApiKey]:
    return keys.new_key("ann", Role.USER, "laptop", NOW, random.Random(seed).randbytes, expires_at=expires_at)


def test_a_key_has_its_form_and_its_record() -> None:
    """The text has four parts; the record has all that is known of it but the secret."""
    text, record = make()
    found = re.fullmatch(r"rayhaul_live_([0-9A-Za-z]{8})_([0-9A-Za-z]{43})_[0-9A-Za-z]{6}", text)
    assert found is not None
    key_id, secret = found.groups()
    assert record == ApiKey(
        key_id=key_id,
        user_id="ann",
        role=Role.USER,
        secret_sha256=hashlib.sha256(secret.encode()).hexdigest(),
        name="laptop",
        created_at=NOW,
    )
    assert secret not in repr(record)


@given(st.binary(min_size=8, max_size=8), st.binary(min_size=32, max_size=32))
def test_any_random_bytes_make_a_key_that_reads_back(id_bytes: bytes, secret_bytes: bytes) -> None:
    """Whatever the random source gives, the lowest and the highest included, the key parses to its own record."""
    text, record = keys.new_key(
        "ann", Role.OPERATOR, "", NOW, lambda length: {8: id_bytes, 32: secret_bytes}[length], expires_at=NOW
    )
    key_id, secret_sha256 = keys.parse(text)
    assert key_id == record.key_id
    assert keys.matches(record, secret_sha256)
    assert record.expires_at == NOW


def test_keys_differ() -> None:
    """Two keys share neither id nor secret."""
    made = [make(seed)[1] for seed in range(100)]
    assert len({record.key_id for record in made}) == len({record.secret_sha256 for record in made}) == 100
    assert not keys.matches(made[0], made[1].secret_sha256)


@given(st.integers(0, 71), st.sampled_from("09AZaz_- é"))
def test_one_wrong_character_is_a_typing_error(place: int, character: str) -> None:
    """Whichever character is changed, the key is refused before anybody looks for it."""
    text, _ = make()
    wrong = text[:place] + character + text[place + 1 :]
    if wrong != text:
        with pytest.raises(Unauthorized):
            keys.parse(wrong)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text + "0",
        lambda text: text + "\n",
        lambda text: " " + text,
        lambda text: text.replace("live", "test"),
        lambda text: text.rpartition("_")[0],
        lambda text: text.replace("a", "а"),  # a Cyrillic letter
        lambda text: "x" * 10_000,
    ],
)
def test_what_is_no_key_is_refused(change: object) -> None:
    """Cut, padded or foreign texts are no keys."""
    assert callable(change)
    with pytest.raises(Unauthorized):
        keys.parse(change(make(seed=3)[0]))


def test_keys_end() -> None:
    """A key is good until the instant it expires, and never once it is revoked."""
    record = make(expires_at=NOW + timedelta(hours=1))[1]
    keys.check(record, NOW)
    keys.check(record, NOW + timedelta(minutes=59, seconds=59))
    with pytest.raises(Unauthorized, match="expired"):
        keys.check(record, NOW + timedelta(hours=1))
    with pytest.raises(Unauthorized, match="revoked"):
        keys.check(replace(record, revoked_at=NOW), NOW)
    keys.check(make()[1], NOW + timedelta(days=100_000))
