"""In which order a change will go, as a person reads it."""

from __future__ import annotations

from collections.abc import Sequence

from provisioner.model.role import Desired


def describe_order(desired: Desired, name: str, running: Sequence[str]) -> str | None:
    """``galera: canary galera-0 first, then 1 at a time, apart from rabbitmq``; None when there is no order.

    :param running: host names of the role's members that may be canaries, by number.
    """
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
    return f"{name}: {', '.join(words)}" if words else None
