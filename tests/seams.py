"""What stands around the small plane: a seam that troubles calls, links without a bucket, a clock that can be set."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import time
from typing import Any

BUCKET = "bucket"


class Seam:
    """A real part of the system, some of whose calls fail, wait, or are done another way."""

    def __init__(self, inner: object) -> None:
        self.inner: Any = inner
        #: What these calls raise.
        self.fail: dict[str, Exception] = {}
        #: These calls set the first event when they come, and go on after the second.
        self.hold: dict[str, tuple[asyncio.Event, asyncio.Event]] = {}
        #: What is called in their place.
        self.instead: dict[str, Callable[..., Any]] = {}

    def __getattr__(self, name: str) -> Any:
        if name in self.fail or name in self.hold:
            return self._troubled(name)
        return self.instead.get(name) or getattr(self.inner, name)

    def _troubled(self, name: str) -> Callable[..., Any]:
        async def call(*arguments: Any, **options: Any) -> Any:
            if name in self.fail:
                raise self.fail[name]
            entered, release = self.hold[name]
            entered.set()
            await release.wait()
            return await getattr(self.inner, name)(*arguments, **options)

        return call


class FakeLinks:
    """Links without a bucket: presigning is arithmetic, and its real arithmetic is tested with the sink."""

    bucket = BUCKET

    def presign_get(self, key: str, *, filename: str, expires_s: int) -> str:
        return (
            f"https://s3.example/{BUCKET}/{key}?filename={filename}&X-Amz-Expires={expires_s}&X-Amz-Signature=sig%2F1"
        )


@dataclass(slots=True)
class Clock:
    offset_s: float = 0.0
    #: Where it stands still, Unix seconds; None: it goes.
    frozen_s: float | None = None

    def __call__(self) -> float:
        return (time() if self.frozen_s is None else self.frozen_s) + self.offset_s
