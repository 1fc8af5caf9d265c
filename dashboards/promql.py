"""Indicators and objectives as PromQL."""

from rayhaul.policy.alert_rules import AlertRule, number_text, window_text
from rayhaul.policy.indicators import (
    INDICATORS,
    Indicator,
    Level,
    LevelShare,
    Match,
    Quantile,
    Rate,
    Selection,
    Share,
)
from rayhaul.policy.objectives import Slower

_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")


def expression(indicator: Indicator) -> str:
    """Return the indicator as an expression over what /metrics shows."""
    match indicator.formula:
        case Level(of=of):
            return _sum(of, selector(of))
        case LevelShare(part=part, whole=whole):
            return f"100 * {_sum(part, selector(part))} / {_sum(whole, selector(whole))}"
        case Rate(of=of, window_s=window_s):
            return f"60 * {rate(of, window_s)}"
        case Share(part=part, whole=whole, window_s=window_s):
            of_all = rate(whole, window_s)
            return f"{_or_nothing(rate(part, window_s), of_all)} / {of_all}"
        case Quantile(of=of, quantile=quantile, window_s=window_s, factor=factor):
            buckets = f"sum by (job, le) (rate({selector(of, '_bucket')}[{window_text(window_s)}]))"
            text = f"histogram_quantile({quantile:g}, {buckets})"
            return text if factor == 1 else f"{number_text(factor)} * {text}"


def condition(rule: AlertRule) -> str:
    """Return the rule's condition over the recorded indicators."""
    comparison = rule.condition
    records = [INDICATORS[name].record for name in (comparison.metric, comparison.divisor) if name is not None]
    return f"{' / '.join(records)} {comparison.operator} {number_text(comparison.threshold)}"


def rate(selection: Selection, window_s: int, suffix: str = "") -> str:
    """Return the increase per second; `suffix` `_count` for what a histogram took in."""
    return _sum(selection, f"rate({selector(selection, suffix)}[{window_text(window_s)}])")


def bad_rate(bad: Selection | Slower, total: Selection, window_s: int) -> str:
    """Return the bad events per second, 0 where there are events and none of them was ever bad."""
    if isinstance(bad, Selection):
        return _or_nothing(rate(bad, window_s), total_rate(total, window_s))
    fast = selector(Selection(bad.metric, (Match("le", str(bad.bound_s)),)), "_bucket")
    return f"{total_rate(total, window_s)} - {_sum(total, f'rate({fast}[{window_text(window_s)}])')}"


def total_rate(total: Selection, window_s: int) -> str:
    return rate(total, window_s, "_count" if total.metric.buckets else "")


def selector(selection: Selection, suffix: str = "") -> str:
    """Return the metric with its label matchers."""
    matchers = ", ".join(map(_matcher, selection.matches))
    return f"{selection.metric.name}{suffix}" + (f"{{{matchers}}}" if matchers else "")


def _matcher(match: Match) -> str:
    is_plain = set(match.pattern) <= _PLAIN or match.label == "le"
    operator = {(True, False): "=", (True, True): "!=", (False, False): "=~", (False, True): "!~"}
    return f'{match.label}{operator[is_plain, match.is_not]}"{match.pattern}"'


def _sum(selection: Selection, text: str) -> str:
    """Sum over all but the cluster and the label to tell apart by. One scrape job is one cluster."""
    labels = f"job, {selection.by}" if selection.by else "job"
    return f"sum by ({labels}) ({text})"


def _or_nothing(part: str, whole: str) -> str:
    """Return a part that is 0, not absent, where nothing was ever counted of it."""
    return f"({part} or {whole} * 0)"
