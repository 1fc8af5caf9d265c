"""Who may come in: API keys, and the page's session."""

from datetime import datetime
from typing import Literal

from pydantic import Field

from rayhaul.wire.base import RequestShape, ResponseShape, Timestamp, Whole


class SessionRequest(RequestShape):
    """Signs the page in."""

    key: str = Field(min_length=1, max_length=200, description="An API key.")


class SessionReport(ResponseShape):
    """Who is signed in."""

    user_id: str = Field(description="Whose key it is.")
    role: str = Field(description="`user` or `operator`.")
    scopes: list[str] = Field(description="What the key may do.")


class KeyRequest(RequestShape):
    """A key, asked for."""

    user: str = Field(
        min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._@-]+$", description="Whose jobs it asks for and sees."
    )
    role: Literal["user", "operator"] = Field("user", description="An operator sees and steers everybody's.")
    name: str = Field("", max_length=100, description="To know it by in the list.")
    scopes: list[Literal["read", "write"]] = Field(
        default=["read", "write"], min_length=1, max_length=2, description="What it may do of what its role may."
    )
    expires_at: datetime | None = Field(None, description="It is refused from then on; empty: until it is revoked.")


class RotateRequest(RequestShape):
    """How a key is followed by its successor."""

    overlap_seconds: Whole = Field(
        86_400, ge=0, le=30 * 86_400, description="How long the old key still holds beside the new one."
    )


class KeyView(ResponseShape):
    """An API key without its secret."""

    id: str = Field(description="The key's id; part of its text.")
    user_id: str = Field(description="Whose jobs it asks for and sees.")
    role: str = Field(description="`user` or `operator`.")
    name: str = Field(description="As it was given.")
    created_at: Timestamp = Field(description="When it was made.")
    expires_at: Timestamp | None = Field(description="It is refused from then on; null: until it is revoked.")
    revoked_at: Timestamp | None = Field(description="It is refused since; null: it is not revoked.")
    scopes: list[str] = Field(default=["read", "write"], description="What it may do of what its role may.")
    last_used_at: Timestamp | None = Field(None, description="To within some minutes; written seldom.")


class KeyCreated(KeyView):
    """A new API key, and its text."""

    key: str = Field(description="The key itself, shown this once.")


class KeysPage(ResponseShape):
    """All keys."""

    keys: list[KeyView] = Field(description="Oldest first.")
