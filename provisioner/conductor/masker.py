"""Values of secrets, taken out of what operators are shown."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from provisioner.conductor.effects import unmade
from provisioner.model.plan import Action, Configure, Plan
from provisioner.model.values import secret_name


class Masker:
    """Takes the values of secrets out of text into which they came by another way, a value of the cloud file say."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        known = {form: name for name, value in secrets.items() for form in (value, _as_json(value)) if form}
        # What stands there already comes first: a short secret may be part of its name.
        found = [*(re.escape(unmade(name)) for name in secrets), *map(re.escape, sorted(known, key=len, reverse=True))]
        self._known = known
        self._pattern = re.compile("|".join(found)) if known else None

    def mask(self, text: str) -> str:
        return text if self._pattern is None else self._pattern.sub(self._hide, text)

    def mask_value(self, value: Any) -> Any:
        """The same in every text of a value; a reference to a secret stays one."""
        if isinstance(value, str):
            return self.mask(value)
        if isinstance(value, list):
            return [self.mask_value(item) for item in value]
        if isinstance(value, dict) and secret_name(value) is None:
            return {key: self.mask_value(item) for key, item in value.items()}
        return value

    def mask_changes(self, plan: Plan) -> Plan:
        """A plan may show what stood in the files of before, which has become a secret since."""
        return plan.model_copy(update={"actions": tuple(map(self._mask_action, plan.actions))})

    def _mask_action(self, action: Action) -> Action:
        if not isinstance(action, Configure):
            return action
        # Not the new values: who asks has written them, and would learn which of many guesses is a secret.
        changes = tuple(change.model_copy(update={"old": self.mask_value(change.old)}) for change in action.changes)
        return action.model_copy(update={"changes": changes}) if changes != action.changes else action

    def _hide(self, found: re.Match[str]) -> str:
        return unmade(self._known[found[0]]) if found[0] in self._known else found[0]


def _as_json(text: str) -> str:
    """As a template shows it within a map or list."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
