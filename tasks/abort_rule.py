"""The bucket's own rule for uploads that were left open."""

import logging
from functools import partial
from typing import Any

from rayhaul.errors import SinkBusy
from tasks.store_calls import Refusal, StoreCalls

_log = logging.getLogger(__name__)


class AbortRule:
    """Asked for once in a process: a store that knows no such rules, or does not let us set them, is left as it is.

    One that was busy is asked again with the next look at it.
    """

    def __init__(self, calls: StoreCalls, bucket: str) -> None:
        self._calls = calls
        self._bucket = bucket
        self._is_settled = False

    async def ensure(self, prefix: str, days: int) -> None:
        """Have the bucket abort uploads under a prefix after so many days, unless it has lifecycle rules already."""
        if self._is_settled:
            return
        self._is_settled = True
        try:
            if await self._has_none():
                await self._set(prefix, days)
        except Refusal as refusal:
            self._is_settled = not isinstance(refusal.error, SinkBusy)
            _log.info("the bucket takes no rule for uploads left open: %s", refusal.error.message)

    async def _has_none(self) -> bool:
        """Raises: Refusal."""
        client = self._calls.client
        read = partial(client.get_bucket_lifecycle_configuration, Bucket=self._bucket)
        try:
            await self._calls.call("get_lifecycle", read)
        except Refusal as refusal:
            if refusal.code != "NoSuchLifecycleConfiguration":
                raise
            return True
        return False

    async def _set(self, prefix: str, days: int) -> None:
        """Raises: Refusal."""
        rule: Any = {
            "ID": "abort-incomplete-uploads",
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": days},
        }
        put = partial(
            self._calls.client.put_bucket_lifecycle_configuration,
            Bucket=self._bucket,
            LifecycleConfiguration={"Rules": [rule]},
        )
        await self._calls.call("put_lifecycle", put)
        _log.info("the bucket aborts uploads left open for %d days", days)
