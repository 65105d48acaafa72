"""In which order a change will go, as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence

from provisioner.model.plan import Action
from provisioner.model.role import Desired


def describe_order(desired: Desired, name: str, running: Sequence[str]) -> str | None:
    """``galera: canary galera-0 first, then 1 at a time, apart from rabbitmq``; None when there is no order.

    :param running: host names of the role's members that may be canaries, by number.
    """
    words = _words(desired, name, running)
    return f"{name}: {', '.join(words)}" if words else None


def describe_rolling(desired: Desired, name: str, rebuilds: Sequence[Action]) -> str | None:
    """``galera: canary galera-0 first, then 1 at a time; stops when one has failed``; None when there is no order.

    :param rebuilds: of the role's members, by number.
    """
    words = _words(desired, name, [action.placement.hostname for action in rebuilds if action.kind == "rebuild"])
    if not words and len(rebuilds) < 2:
        return None
    limit = desired.roles[name].policy.max_failures
    stops = "one has failed" if limit == 0 else f"more than {limit} have failed"
    return f"{name}: {', '.join(words) or 'all at once'}; stops when {stops}"


def _words(desired: Desired, name: str, running: Sequence[str]) -> list[str]:
    policy, count = desired.roles[name].policy, desired.cloud.roles[name].count
    words = []
    canaries = list(running[: policy.canary])
    if canaries and len(canaries) < count:
        words.append(f"{'canary' if len(canaries) == 1 else 'canaries'} {', '.join(canaries)} first")
    width = policy.width(count)
    if width < count:
        words.append(f"{'then ' if words else ''}{width} at a time")
    others = [
        other.role
        for other in desired.roles.values()
        if other.role != name and set(other.policy.apart) & set(policy.apart)
    ]
    if others:
        words.append(f"apart from {', '.join(others)}")
    after = [other for other in policy.after if other in desired.roles]
    if after:
        words.append(f"after {', '.join(after)}")
    return words
