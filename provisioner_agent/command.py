"""The command ``provisioner-agent``: which module does a command.

Scripts call some of them in loops, the boot waits for one, and ``run`` stays in memory: no other module is imported.
"""

from __future__ import annotations

import sys
from importlib import import_module

ALONE = {
    "collect": "provisioner_agent.classic.collect",
    "apply": "provisioner_agent.classic.apply",
    "refresh": "provisioner_agent.classic.refresh",
    "settle": "provisioner_agent.instance.settle",
    "watch": "provisioner_agent.instance.watch",
    "recover": "provisioner_agent.instance.recover",
}
"""Commands that are modules of their own."""


def main() -> None:
    """``provisioner-agent COMMAND ...``; exits with the command's code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in ALONE:
        import_module(ALONE[name]).main(sys.argv[2:], f"provisioner-agent {name}")
        return
    if name == "run":
        run = import_module("provisioner_agent.instance.run")
        root = run.read_root(sys.argv[2:])
        if root is not None:
            run.main(root)
            return
    import_module("provisioner_agent.instance.main").main()
