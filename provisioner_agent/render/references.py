"""Values that refer to secrets: the secret comes where the reference is, and not before."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

REFERENCES = "references"
"""In the metadata: ``[[path, name], ...]``, where among the values the secret ``name`` of the node belongs."""


def put_references(values: Mapping[str, Any], metadata: Mapping[str, Any], put: Callable[[str], Any]) -> dict[str, Any]:
    """A copy of the values with something wherever the metadata refer to a secret.

    :param put: name of the secret → what to put there.
    :raises LookupError: the values have no such place, or ``put`` knows no such secret.
    :raises TypeError: the references have another shape. :raises ValueError: as well.
    """
    references = metadata.get(REFERENCES) or ()
    copied: Any = json.loads(json.dumps(values)) if references else dict(values)
    for path, name in references:
        place = copied
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = put(name)
    return dict(copied)
