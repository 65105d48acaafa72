"""The ``provisioner`` command: finds the subcommand in the table, and turns errors into text and exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from provisioner import __version__
from provisioner.cli.commands import COMMANDS, GROUPS
from provisioner.cli.options import Options, clean
from provisioner.errors import EXIT_ERROR, EXIT_USAGE, ManifestError, ProvisionerError, UsageError, error_from_dict

INTERRUPTED = 130
"""Exit code after Ctrl-C: 128 and the number of SIGINT, as shells count it."""


class LazyGroup(click.Group):
    """A group whose commands are those of the table that begin with ``words``; each is imported when it is called."""

    def __init__(self, words: tuple[str, ...] = (), **settings: Any) -> None:
        super().__init__(**settings)
        self._words = words

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the table's order: the way of a deployment, not the alphabet."""
        depth = len(self._words)
        lines = (tuple(line.split()) for line in COMMANDS)
        return list(dict.fromkeys(line[depth] for line in lines if line[:depth] == self._words))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        line = " ".join((*self._words, cmd_name))
        if line in GROUPS:
            return LazyGroup((*self._words, cmd_name), name=cmd_name, help=GROUPS[line], no_args_is_help=True)
        if line not in COMMANDS:
            return None
        module, _, name = COMMANDS[line].place.partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = []
        for name in self.list_commands(ctx):
            line = " ".join((*self._words, name))
            rows.append((name, GROUPS[line] if line in GROUPS else COMMANDS[line].does))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Root(LazyGroup):
    """The whole command line. Ends the process with the exit codes of :mod:`provisioner.errors`."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        options = extra.pop("obj", None) or Options()
        extra |= {"standalone_mode": False, "obj": options}
        try:
            code = super().main(args, *rest, **extra)
        except click.UsageError as error:
            usage = error.ctx.get_usage() if error.ctx else None
            hint = f"{error.ctx.command_path} --help" if error.ctx else "provisioner --help"
            code = show_error(UsageError(error.format_message(), cause=usage, hint=hint), options)
        except click.ClickException as error:
            code = show_error(ProvisionerError(error.format_message()), options)
        except ProvisionerError as error:
            code = show_error(error, options)
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted; what the service was told goes on: provisioner node list", err=True)
            code = INTERRUPTED
        except BrokenPipeError:
            # The reader of our output has gone. Nothing more can be said to it, also not when Python flushes at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            code = EXIT_ERROR
        sys.exit(code if isinstance(code, int) else 0)


def show_error(error: ProvisionerError, options: Options) -> int:
    """Print an error on standard error; its exit code."""
    if options.json:
        click.echo(json.dumps(error.to_dict(), indent=2, ensure_ascii=False), err=True)
    else:
        click.echo(clean("\n".join(error_lines(error))), err=True)
    return EXIT_USAGE if isinstance(error, UsageError) else error.exit_code


def print_error(error: dict[str, Any], *, err: bool = True) -> None:
    """An error as the records and the service keep it, in the same words as one of our own."""
    click.echo(clean("\n".join(error_lines(error_from_dict(error)))), err=err)


def error_lines(error: ProvisionerError) -> list[str]:
    """``error:`` what, ``where:``, ``why:`` and ``next:``, those that are known; a manifest's problems line by line."""
    lines = [f"error: {error.summary}"]
    if isinstance(error, ManifestError):
        for problem in error.problems:
            lines.append(f"  {problem.where}: {problem.what}")
            if problem.instead:
                lines.append(f"      {problem.instead}")
    else:
        for word, text in (("where:", error.where), ("why:", error.cause)):
            if text:
                lines.append(f"{word:<6} " + text.replace("\n", "\n       "))
    if error.hint:
        lines.append(f"next:  {error.hint}")
    return lines


@click.command(cls=Root, no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Configuration file.  [default: /etc/provisioner/provisioner.conf]",
)
@click.version_option(__version__, message="%(prog)s %(version)s", prog_name="provisioner")
@click.pass_context
def main(context: click.Context, config: Path | None) -> None:
    """Turns a rack of powered-off servers into a running cloud from one YAML file.

    \b
    Example, the whole way:
      provisioner image build
      provisioner node enroll hardware/lab.yaml
      provisioner plan cloud-lab.yaml
      provisioner apply cloud-lab.yaml --wait

    Exit codes: 0 done, 1 error, 2 changes pending (plan), 3 deadline passed and still running, 64 usage.
    """
    if config is not None and not config.is_file():
        raise UsageError("the configuration file does not exist", where=str(config), hint="correct --config")
    context.ensure_object(Options).config = config
