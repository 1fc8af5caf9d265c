"""What an object tells of the job, the upload or the lease that made it: by this it is known as ours, or taken back."""

from collections.abc import Mapping

from rayhaul.lease import AbortOrder, TransferOrder
from tasks.sink import Sink

#: The object's metadata names the upload that it was published by, or the lease of its PUT and that lease's epoch.
SESSION = "session-id"
LEASE = "lease-id"
EPOCH = "epoch"
_JOB = "job-id"


def metadata_of(order: TransferOrder) -> Mapping[str, str]:
    """Return what every object of ours tells of its job."""
    context = order.context
    ids = {"correlation-id": context.correlation_id, _JOB: context.job_id}
    return ids if context.traceparent is None else {**ids, "traceparent": context.traceparent}


def metadata_of_put(order: TransferOrder) -> Mapping[str, str]:
    """Return what an object tells that was published at once, so that it is found to be its lease's."""
    return {**metadata_of(order), LEASE: order.lease_id, EPOCH: str(order.epoch)}


async def undo(sink: Sink, order: AbortOrder) -> None:
    """Abort an upload and see that it is gone, and that nothing stands that it had published. Raises: SinkError."""
    if order.upload_id:
        await sink.abort(order.key, order.upload_id)
    found = await sink.head(order.key)
    if found is not None and (found.metadata.get(SESSION) == order.session_id or _was_put(found.metadata, order)):
        await sink.delete(order.key)


def _was_put(metadata: Mapping[str, str], order: AbortOrder) -> bool:
    """Say whether a PUT that the order takes back made this object; one of a later lease stays."""
    if order.epoch is None or metadata.get(_JOB) != order.context.job_id or EPOCH not in metadata:
        return False
    return int(metadata[EPOCH]) <= order.epoch
