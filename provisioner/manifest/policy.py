"""Checks of what roles say of the order of changes: names, places, and that no role waits for itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from provisioner.errors import Problem
from provisioner.manifest.check import suggest
from provisioner.manifest.layer import Layer, Path
from provisioner.model.hardware import NAME
from provisioner.model.role import Role


def check_policy(role: Role, layer: Layer) -> Iterator[Problem]:
    """What can be seen in one role file."""
    policy = role.change
    if role.at_a_time is not None and _says(layer, "at_a_time"):
        what = f"at_a_time stands at the top as well as in change ({policy.at_a_time})"
        yield Problem(layer.where(("at_a_time",)), what, "keep the one in change")
    if _says(layer, "settle") and not policy.canary:
        what = "change.settle is about canaries, and there are none"
        yield Problem(layer.where(("change", "settle")), what, "write canary: 1")
    for number, group in enumerate(policy.apart):
        if not NAME.match(group):
            what = f"change.apart: {group!r} is not a name of a group"
            yield Problem(_at(layer, "apart", number), what, "write lower-case letters, digits and dashes")
    for key in ("after", "apart"):
        names = getattr(policy, key)
        for number, name in enumerate(names):
            if name in names[:number]:
                yield Problem(_at(layer, key, number), f"change.{key} names {name} twice", "remove one of them")


def check_order(roles: Mapping[str, Role], layers: Mapping[str, Layer]) -> Iterator[Problem]:
    """What ``change.after`` names exists, and no role waits for itself, by its changes or by its deployments.

    Both are one order: a role is deployed after others when these are ready, which needs their changes to be done.
    """
    for name, role in roles.items():
        for number, other in enumerate(role.change.after):
            where = _at(layers[name], "after", number)
            if other not in roles:
                yield Problem(where, f"changes of {name} wait for a role {other!r}", suggest(other, roles))
            elif (way := _way(other, name, roles)) is not None:
                circle = " → ".join((name, *way))
                yield Problem(
                    where, f"changes of {name} wait for themselves: {circle}", "take one after out of the circle"
                )


def _way(start: str, end: str, roles: Mapping[str, Role]) -> tuple[str, ...] | None:
    """The roles on the shortest way from one to another that it waits for; None when it does not."""
    ways: list[tuple[str, ...]] = [(start,)]
    seen = {start}
    for way in ways:
        if way[-1] == end:
            return way
        role = roles[way[-1]]
        for other in (*role.after, *role.change.after):
            if other in roles and other not in seen:
                seen.add(other)
                ways.append((*way, other))
    return None


def _says(layer: Layer, key: str) -> bool:
    change = layer.data.get("change")
    return isinstance(change, dict) and key in change


def _at(layer: Layer, key: str, number: int) -> str:
    path: Path = ("change", key, number)
    return layer.where(path)
