"""``provisioner-agent apply``, or ``os-apply-config``: metadata and templates become files; or one value is shown."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from provisioner_agent import __version__
from provisioner_agent.classic.files import render_tree, write_all
from provisioner_agent.classic.keys import TYPES, code_of_boolean, show_value
from provisioner_agent.classic.metadata import (
    FALLBACK_FILES,
    LIST_FILE,
    LIST_VARIABLE,
    choose_files,
    find_part,
    read_metadata,
)
from provisioner_agent.classic.problem import ClassicError

TEMPLATES_VARIABLE = "OS_CONFIG_APPLIER_TEMPLATES"
TEMPLATES = "/usr/libexec/os-apply-config/templates"
OLD_TEMPLATES = ("/opt/stack/os-apply-config/templates", "/opt/stack/os-config-applier/templates")


def add_options(parser: argparse.ArgumentParser, environment: Mapping[str, str] = os.environ) -> None:
    """The options of os-apply-config."""
    parser.add_argument(
        "-t", "--templates", metavar="FOLDER", default=default_templates(environment),
        help="root of the template tree (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="FOLDER", default="/", help="root of what is written (default: %(default)s)"
    )
    parser.add_argument(
        "-m", "--metadata", metavar="FILE", nargs="*", default=[],
        help="read these files instead of those in OS_CONFIG_FILES (colons between them) or in the collector's list",
    )  # fmt: skip
    parser.add_argument(
        "--fallback-metadata", metavar="FILE", nargs="*", default=list(FALLBACK_FILES),
        help="read before all others, where they exist (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("-v", "--validate", action="store_true", help="render, and write nothing")
    parser.add_argument("--print-templates", action="store_true", help="say where the templates are")
    parser.add_argument("-s", "--subhash", metavar="PATH", help="render with this part of the metadata alone (a.b)")
    parser.add_argument("--key", metavar="PATH", help="print one value (a.b.0.c), and render nothing")
    parser.add_argument(
        "--type", default="default", help=f"what the value must be: {', '.join(TYPES)} (default: %(default)s)"
    )
    parser.add_argument("--key-default", metavar="TEXT", help="printed when there is no such value; of any type")
    parser.add_argument(
        "--boolean-key", metavar="PATH", help="print nothing; exit code 0 for true, 1 for false, 255 for all else"
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument(
        "--os-config-files", metavar="FILE", default=environment.get(LIST_VARIABLE, LIST_FILE),
        help="the collector's list of metadata files (default: %(default)s)",
    )  # fmt: skip


def default_templates(environment: Mapping[str, str]) -> str:
    """Where the tree is: said by the environment, else in its place, else in one of the places of old."""
    if TEMPLATES_VARIABLE in environment:
        return environment[TEMPLATES_VARIABLE]
    old = [folder for folder in OLD_TEMPLATES if Path(folder).is_dir()]
    return old[0] if old and not Path(TEMPLATES).is_dir() else TEMPLATES


def run_apply(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> int:
    """:returns: the exit code: 0 done; 1 nothing was changed, and why is said; more for a boolean key."""
    if options.print_templates:
        print(options.templates)
        return 0
    try:
        files = choose_files(options.metadata, options.os_config_files, environment)
        data = read_metadata([*options.fallback_metadata, *files])
        if options.key:
            if options.boolean_key:
                _say("--boolean-key is ignored, since --key is given")
            print(show_value(data, options.key, options.type, options.key_default))
            return 0
        if options.boolean_key:
            return code_of_boolean(data, options.boolean_key)
        part = find_part(data, options.subhash) if options.subhash else data
        rendered = render_tree(Path(options.templates), part)
        if not options.validate:
            for path in write_all(Path(options.output), rendered):
                _say(f"changed /{path}")
    except ClassicError as error:
        _say(str(error))
        return 1
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}; nothing more was changed")
        return 1
    return 0


def main(argv: Sequence[str] | None = None, prog: str = "os-apply-config") -> None:
    """:param prog: the name that it was called by."""
    parser = argparse.ArgumentParser(prog=prog, description="Metadata and templates become files.")
    add_options(parser)
    sys.exit(run_apply(parser.parse_args(argv)))


def _say(text: str) -> None:
    print(f"provisioner-agent apply: {text}", file=sys.stderr)
