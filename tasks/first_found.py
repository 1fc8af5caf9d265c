"""Which of several places has a file: the first one, or where that has none, the first of the others that answers."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from rayhaul.errors import RayhaulError, SourceError, SourceTooLarge
from rayhaul.job import Metadata
from rayhaul.origins import Source, host_of

_log = logging.getLogger(__name__)


async def first_found(sources: Sequence[Source], look: Callable[[Source], Coroutine[Any, Any, Metadata]]) -> Metadata:
    """Return what the first source says of the file, or where it has none, the first mirror that answers.

    Raises: RayhaulError, where no source has it: as the first one said, unless another may have it later.
    """
    main, *mirrors = sources
    try:
        return await look(main)
    except SourceTooLarge:
        # That is the file, whoever has it.
        raise
    except RayhaulError as error:
        if not mirrors:
            raise
        failed = {main.index: error}
        _log.info("the source does not have the file (%s): looking at its mirrors", error.code)
    looking = [asyncio.create_task(look(source)) for source in mirrors]
    try:
        for done in asyncio.as_completed(looking):
            with suppress(RayhaulError):
                return await done
    finally:
        for task in looking:
            task.cancel()
        ended = await asyncio.gather(*looking, return_exceptions=True)
    for source, said in zip(mirrors, ended, strict=True):
        assert isinstance(said, RayhaulError), "else it was returned or raised"
        failed[source.index] = said
    hosts = {source.index: host_of(source.url) for source in sources}
    told = [f"{hosts[index]}: {said.message}" for index, said in sorted(failed.items())]
    counts = next((said for said in failed.values() if said.retryable), failed[main.index])
    if not isinstance(counts, SourceError):
        raise counts
    text = f"None of {len(sources)} sources has the file. " + " ".join(told)
    raise type(counts)(text, retry_after_s=counts.retry_after_s, status=counts.status)
