"""Which page of docs/runbooks an alert leads to."""

from rayhaul.policy.alert_rules import AlertRule

#: The pages there are, without `.md`.
PAGES = (
    "stalled-job",
    "queue-backlog",
    "worker-offline",
    "r2-upload-failure",
    "api-high-latency",
    "worker-capacity-high",
    "slo-burn",
)

_ANCHOR = "#runbook-"
#: Alerts that the specification gives no runbook.
_BY_NAME = {"APIHighLatency": "api-high-latency", "WorkerCapacityHigh": "worker-capacity-high"}
#: For what is about the objectives themselves, or about not being able to see.
OBJECTIVES_PAGE = "slo-burn"


def find_page(rule: AlertRule) -> str | None:
    """Return the rule's page; None where it names none that there is."""
    page = _BY_NAME.get(rule.name, "") if rule.runbook is None else rule.runbook.removeprefix(_ANCHOR)
    return page if page in PAGES else None


def page_of(rule: AlertRule) -> str:
    """Return the rule's page. Raises: ValueError, one sentence, where it names none that there is."""
    page = find_page(rule)
    if page is None:
        raise ValueError(f"Alert {rule.name}: there is no runbook page for {rule.runbook or 'it'}.")
    return page
