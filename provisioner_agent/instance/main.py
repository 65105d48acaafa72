"""The commands of the config agent: ``run``, ``status``, ``why``, ``diff``, ``trial``."""

from __future__ import annotations

import argparse
import json
import logging
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.document import BadDocument, Document, parse_document, read_document
from provisioner_agent.instance.drift import find_drift
from provisioner_agent.instance.files import check_files, compare_files, diff_text, refuse_files, render_files
from provisioner_agent.instance.host import LinuxHost
from provisioner_agent.instance.record import read_record
from provisioner_agent.instance.report import status_text
from provisioner_agent.instance.run import host_text, run_agent
from provisioner_agent.instance.trial import run_trial, try_files
from provisioner_agent.protocol.auth import AuthError
from provisioner_agent.render.problem import RenderError

EXIT_ERROR = 1
EXIT_CHANGES_PENDING = 2
EXIT_USAGE = 64
OTHERS = {
    "collect": "ask the sources of metadata (os-collect-config)",
    "apply": "metadata and templates become files (os-apply-config)",
    "refresh": "run the scripts of all phases (os-refresh-config)",
    "watch": "take back what the agent is not there to take back",
    "recover": "for phase scripts: say how far this member had come, and hear who begins again",
    "settle": "at boot, before services: take back a switch that was cut off",
}


def main(argv: Sequence[str] | None = None) -> None:
    sys.exit(run_command(sys.argv[1:] if argv is None else argv))


def run_command(argv: Sequence[str]) -> int:
    """Run one command line; its exit code: 0 done, 1 error, 2 changes pending, 64 usage."""
    parser = _parser()
    try:
        words = parser.parse_args(argv)
    except SystemExit as end:
        return EXIT_USAGE if end.code else 0
    host = LinuxHost(words.root)
    try:
        if words.command == "status":
            return show_status(host, as_json=words.json)
        if words.command == "why":
            return show_why(host, words.path)
        if words.command == "trial":
            return try_once(host, words.metadata, files_only=words.files)
        if words.command == "diff":
            return show_diff(host, words.metadata, words.templates)
        run_agent(host)
        return 0
    except (OSError, ValueError, KeyError, AuthError, BadDocument, RenderError) as error:
        print(f"provisioner-agent: {error}", file=sys.stderr)
        return EXIT_ERROR


def show_status(host: LinuxHost, *, as_json: bool) -> int:
    status: dict[str, Any] = json.loads(host_text(host, places.RUN_STATUS))
    print(json.dumps(status, indent=1) if as_json else status_text(status))
    return 0


def show_why(host: LinuxHost, path: str | None) -> int:
    """Why the instance is as it is, or why a file is; exit code 2 when somebody else has changed the file."""
    if path is None:
        return show_status(host, as_json=False)
    document, record = read_document(host, places.APPLIED), read_record(host)
    if document is None:
        print(f"no generation is in force, so {path} is not the agent's")
        return EXIT_ERROR
    files = render_files(host, document)
    if path not in files:
        print(f"{path} is not the agent's: generation {document.generation} has no template {places.TEMPLATES}{path}")
        return EXIT_ERROR
    file = files[path]
    print(f"{path}: template {places.TEMPLATES}{path}, generation {document.generation}")
    print(f"mode {file.mode:04o}, {file.owner}:{file.group}" + (", sensitive" if file.sensitive else ""))
    for unit, how in file.services.items():
        print(f"when it changes: {unit}, {how}")
    if file.confirm:
        print("a change of it is taken back unless the server is heard again")
    if file.validate:
        print(f"checked by: {shlex.join(file.validate)}")
    drift = find_drift(host, document, record).get(path)
    if drift is None:
        print("as the agent wrote it")
        return 0
    print(f"changed by hand; the next change of it would be:\n{drift}")
    return EXIT_CHANGES_PENDING


def show_diff(host: LinuxHost, metadata: Path, templates: str) -> int:
    """Render, validate, and show what differs from what is there. Changes nothing.

    :raises FileNotFoundError: there is no such template folder.
    """
    document = read_metadata(metadata)
    if not Path(host.real(templates)).is_dir():
        raise FileNotFoundError(f"there is no template folder {host.real(templates)}; --templates is below --root")
    files = render_files(host, document, templates)
    refuse_files(check_files(host, files))
    changes = compare_files(host, files, ())
    if not changes:
        print("Nothing to change.")
        return 0
    print(diff_text(changes, files))
    return EXIT_CHANGES_PENDING


def try_once(host: LinuxHost, metadata: Path, *, files_only: bool = False) -> int:
    """Bring metadata into force with all phases and probes, without a server; print the report as JSON.

    :param files_only: nothing is brought into force.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    document = read_metadata(metadata)
    report = try_files(host, document) if files_only else run_trial(host, document)
    print(json.dumps(report))
    return 0 if report.get("healthy") else EXIT_ERROR


def read_metadata(path: Path) -> Document:
    """A file with a metadata document, with or without the generation around it.

    :raises BadDocument: it is none. :raises OSError: it cannot be read.
    """
    try:
        raw = json.loads(path.read_text())
    except ValueError as error:
        raise BadDocument(f"{path} is not JSON: {error}") from None
    document = parse_document(raw if "metadata" in raw else {"generation": raw.get("generation", 1), "metadata": raw})
    if document is None:
        raise BadDocument(f"{path} holds no metadata")
    return document


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="provisioner-agent", description="The config agent of an instance.")
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="collect metadata and bring it into force, for ever")
    status = commands.add_parser("status", help="which generation is in force, how the probes are, what is waited for")
    status.add_argument("--json", action="store_true", help="as JSON")
    why = commands.add_parser("why", help="why the instance, or a file in it, is as it is")
    why.add_argument("path", nargs="?", help="a file; exit code 2 when somebody else has changed it")
    diff = commands.add_parser("diff", help="render once and show what differs, with exit code 2; changes nothing")
    diff.add_argument("--metadata", type=Path, required=True, help="file with the metadata (JSON)")
    diff.add_argument("--templates", default=places.TEMPLATES, help="template folder, below the root")
    trial = commands.add_parser("trial", help="bring metadata into force without a server: for tests of an image")
    trial.add_argument("--metadata", type=Path, required=True, help="file with the metadata (JSON)")
    trial.add_argument("--files", action="store_true", help="only render and validate the files, and run the probes")
    for command in (run, status, why, diff, trial):
        command.add_argument("--root", type=Path, default=Path("/"), help="folder that stands for the root")
    for name, what in OTHERS.items():  # for the help alone: see provisioner_agent.command
        commands.add_parser(name, help=what)
    return parser


if __name__ == "__main__":
    main()
