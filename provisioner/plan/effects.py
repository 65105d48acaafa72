"""Which files of which instances a plan changes, put to its actions; and that as text. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from provisioner.model.plan import Configure, Effect, FileChange, Plan

VERBS = {"restart": "restarts", "reload": "reloads", "phase": "lets a phase script see to"}


def add_effects(plan: Plan, effects: Sequence[Effect], notes: Sequence[str]) -> Plan:
    """:param effects: of every instance whose files are known, also of one in which no file changes."""
    files = {effect.node: effect.files for effect in effects}
    configured = {action.node for action in plan.actions if isinstance(action, Configure)}
    actions = tuple(
        action.model_copy(update={"files": files.get(action.node)}) if isinstance(action, Configure) else action
        for action in plan.actions
    )
    others = tuple(effect for effect in effects if effect.files and effect.node not in configured)
    return plan.model_copy(update={"actions": actions, "effects": others, "notes": (*plan.notes, *notes)})


def compare_contents(
    old: Mapping[str, str], new: Mapping[str, str], shells: Mapping[str, FileChange]
) -> tuple[FileChange, ...]:
    """What is written and removed. :param shells: by path, what is to be said of a file that is written."""
    written = [shells[path] for path in sorted(new) if old.get(path) != new[path]]
    return (*written, *(FileChange(path=path, what="removed") for path in sorted(old.keys() - new.keys())))


def describe_files(files: Sequence[FileChange] | None) -> Iterator[str]:
    """A line for each file: what becomes of it, and of the units that it is for."""
    if files is None:
        return
    if not files:
        yield "no file changes"
    for file in files:
        said = [f"{'writes' if file.what == 'written' else 'removes'} {file.path}"]
        said += [f"{VERBS[how]} {unit}" for unit, how in sorted(file.services.items())]
        if file.confirm:
            said.append("taken back unless the server is heard again")
        yield "; ".join(said)
