"""The command ``provisioner-agent``: which module does a command. Scripts call some of them in loops, and ``run`` stays
in memory, so that no other module is imported."""

from __future__ import annotations

import sys
from importlib import import_module

CLASSIC = ("collect", "apply", "refresh")


def main() -> None:
    """``provisioner-agent COMMAND ...``; exits with the command's code."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in CLASSIC:
        import_module(f"provisioner_agent.classic.{name}").main(sys.argv[2:], f"provisioner-agent {name}")
        return
    if name == "run":
        run = import_module("provisioner_agent.instance.run")
        root = run.read_root(sys.argv[2:])
        if root is not None:
            run.main(root)
            return
    import_module("provisioner_agent.instance.main").main()
