"""Which transport a link is read by: its scheme decides."""

from collections.abc import Mapping
from types import MappingProxyType

from rayhaul.settings import Settings
from tasks.bucket_rules import BucketRules, StoredObject
from tasks.bucket_source import BucketTransport
from tasks.egress import GuardedClient
from tasks.http_transport import HttpTransport
from tasks.sink import Sink
from tasks.transport import Transport

_NONE: Mapping[str, Transport] = MappingProxyType({})


class Transports:
    """All that an agent reads by. One per process."""

    def __init__(
        self, client: GuardedClient, others: Mapping[str, Transport] = _NONE, *, bucket: BucketTransport | None = None
    ) -> None:
        """`client` reads HTTP, `others` what their schemes say. Whatever else is asked for, HTTP refuses."""
        self._http = HttpTransport(client)
        self._bucket = bucket
        self._others = dict(others)
        if bucket is not None:
            self._others["s3"] = bucket

    @classmethod
    def of(cls, settings: Settings, client: GuardedClient, sink: Sink) -> "Transports":
        rules = BucketRules(settings.sources, settings.s3)
        return cls(client, bucket=BucketTransport(sink, rules, settings.source))

    async def aclose(self) -> None:
        if self._bucket is not None:
            await self._bucket.aclose()

    def by(self, url: str) -> Transport:
        return self._others.get(url.partition(":")[0].lower(), self._http)

    def stored(self, url: str) -> StoredObject | None:
        """Return the object that a link names in the sink's own store, which may copy it; None of any other link.

        Raises: EgressDenied; InvalidRequest.
        """
        return None if self._bucket is None else self._bucket.stored(url)
