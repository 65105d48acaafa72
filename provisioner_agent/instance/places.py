"""Where the config agent keeps things in the instance."""

from __future__ import annotations

TEMPLATES = "/usr/libexec/provisioner-agent/templates"
PHASES = "/usr/libexec/os-refresh-config"

STATE = "/var/lib/provisioner-agent/state.json"
METADATA = "/var/lib/provisioner-agent/metadata.json"
"""The newest metadata that the server gave, mode 0600: it holds secrets."""
APPLIED = "/var/lib/provisioner-agent/applied.json"
"""The metadata of the generation that is applied, for the boot without a server."""
MASTER = "/var/lib/provisioner-agent/master"
"""What the service last said of its epoch, and of where it is: an agent that slept through a move knows it."""
JOURNAL = "/var/lib/provisioner-agent/journal"
CANDIDATE = "/var/lib/provisioner-agent/candidate"
LOCK = "/var/lib/provisioner-agent/lock"
"""Held by whoever works on a journal. Beside the journal, so that who sees the one sees the other."""

RUN_STATUS = "/run/provisioner-agent/status.json"
RUN_METADATA = "/run/provisioner-agent/metadata.json"
RUN_CHECK = "/run/provisioner-agent/check"
"""Folder of what openssl reads; it holds secrets for a moment."""
RUN_PERMIT = "/run/provisioner-agent/permit.json"
