"""Sealing: what is sealed opens with its key at its place, and nowhere else."""

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rayhaul.ledger.sealing import KEY_BYTES, PLAIN, SealBroken, Sealer, is_sealed, key_id, open_spec, seal_spec
from rayhaul.settings import LedgerSettings

OLD, NEW = b"o" * KEY_BYTES, b"n" * KEY_BYTES
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON, st.text(max_size=40))
def test_what_is_sealed_opens_again(document: object, about: str) -> None:
    """Any JSON, by another process with the same key; the sealed text shows nothing of it."""
    sealed = Sealer([NEW]).seal(document, about)
    assert is_sealed(sealed)
    assert Sealer([NEW]).open(sealed, about) == document


def test_a_sealed_text_says_its_form_and_key() -> None:
    """Form, key id, content; no two are alike, though the document is the same."""
    sealer = Sealer([NEW, OLD])
    first, second = sealer.seal("s3cr3t", "a"), sealer.seal("s3cr3t", "a")
    assert re.fullmatch(rf"v1\.{key_id(NEW)}\.[A-Za-z0-9+/]+=*", first)
    assert first != second
    assert "s3cr3t" not in first
    assert b"s3cr3t" not in base64.b64decode(first.split(".")[2])
    assert sealer.key_ids == [key_id(NEW), key_id(OLD)]


@pytest.mark.parametrize("place", [0, 5, 30, -1])
def test_what_was_changed_does_not_open(place: int) -> None:
    """A bit of salt, nonce, text or tag."""
    sealer = Sealer([NEW])
    form, name, encoded = sealer.seal("s3cr3t", "a").split(".")
    content = bytearray(base64.b64decode(encoded))
    content[place] ^= 1
    with pytest.raises(SealBroken, match="does not open"):
        sealer.open(f"{form}.{name}.{base64.b64encode(content).decode()}", "a")


def test_a_text_does_not_open_at_another_place() -> None:
    """Copied into another row it is worth nothing."""
    sealer = Sealer([NEW])
    with pytest.raises(SealBroken, match="job 2"):
        sealer.open(sealer.seal("s3cr3t", "job 1"), "job 2")


def test_the_first_key_seals_and_all_open() -> None:
    """With new and old both read; with the wrong one it is said which one is missing."""
    by_old = Sealer([OLD]).seal("s3cr3t", "a")
    both = Sealer([NEW, OLD])
    assert both.open(by_old, "a") == "s3cr3t"
    assert Sealer([NEW]).open(both.seal("s3cr3t", "a"), "a") == "s3cr3t"
    with pytest.raises(SealBroken, match=key_id(OLD)):
        Sealer([NEW]).open(by_old, "a")


def test_without_keys_nothing_is_sealed() -> None:
    """What is written so is readable, with and without keys later on."""
    assert PLAIN.seal("https://files.example/", "a") == "https://files.example/"
    assert Sealer([NEW]).open("https://files.example/", "a") == "https://files.example/"
    with pytest.raises(SealBroken):
        PLAIN.open(Sealer([NEW]).seal("x", "a"), "a")


def test_of_a_spec_all_that_names_or_opens_a_place_is_sealed() -> None:
    """The rest stays to be read by people; opened, it is what it was."""
    spec = {"url": "u", "mirrors": ["m"], "headers": {"a": "b"}, "webhook": "w", "refresh_webhook": None, "key": "k"}
    sealed = seal_spec(spec, "job_1", Sealer([NEW]))
    assert set(sealed) == {"key", "sealed"}
    opened = open_spec(sealed, "job_1", Sealer([NEW]))
    assert {name: opened[name] for name in spec} == spec
    assert seal_spec(spec, "job_1", PLAIN) == open_spec(spec, "job_1", PLAIN) == spec


@pytest.mark.parametrize("text", ["c2hvcnQ=", "not base64!", "b" * 43])
def test_a_setting_that_is_no_key_is_refused_and_not_shown(text: str) -> None:
    """32 bytes in base64, several with commas between them."""
    with pytest.raises(ValueError, match="base64"):
        LedgerSettings.model_validate({"secret_key": text})
    both = ",".join(base64.b64encode(key).decode() for key in (NEW, OLD))
    settings = LedgerSettings.model_validate({"secret_key": both})
    assert settings.keys == (NEW, OLD)
    assert both not in repr(settings)
