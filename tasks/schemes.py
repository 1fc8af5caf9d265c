"""What may be asked for as a source at all, by the URL's scheme: checked by the API, and by each transport again."""

from rayhaul.errors import InvalidRequest
from rayhaul.settings import Settings
from tasks.bucket_rules import BucketRules
from tasks.guard import AddressGuard

_HTTP = frozenset({"http", "https"})


class SourceRules:
    def __init__(self, settings: Settings, guard: AddressGuard) -> None:
        self._guard = guard
        self._buckets = BucketRules(settings.sources, settings.s3)

    def check(self, url: str) -> None:
        """Check the URL of a source or a mirror. Asks no resolver and opens nothing.

        Raises: InvalidRequest where it is none that is read here; EgressDenied where it leads where nobody may fetch.
        """
        scheme = url.partition(":")[0].lower()
        if scheme == "s3":
            self._buckets.check(url)
        elif scheme in _HTTP or "://" not in url:
            self._guard.check_url(url)
        else:
            raise InvalidRequest("The URL must begin with http://, https:// or s3://.")
