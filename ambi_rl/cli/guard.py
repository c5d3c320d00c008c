"""What becomes of an error on the command line: one line on the terminal and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from ambi_rl.errors import AmbiError, explain

DEBUG_VARIABLE = "AMBI_DEBUG"
SOME_FAILED = 9
INTERRUPTED = 130

EXIT_CODES = """Exit codes:

\b
  0    done
  1    the system failed: disk full, out of memory, closed pipe
  2    wrong use: an option, a value, a missing file or folder
  3    the picture cannot be coded: mode, depth, animation, size
  4    the file is not an ambi file, or it is truncated or damaged
  5    the file or bundle is of a newer format version
  6    the file's bundle is not at hand
  7    the bundle cannot be used
  8    training met a number that is not finite
  9    some of several files failed; the others are done
  70   a mistake in ambi-rl itself
  130  interrupted

AMBI_DEBUG=1 shows the traceback of an error. AMBI_BUNDLES names folders in which bundles (*.ambic)
are looked for, separated like PATH."""


def run_script(main: Callable[..., None], name: str) -> None:
    """Run a function as a command line of its own, whose errors end as one line on stderr.

    Args:
        main: With Typer's annotations.
        name: What the line begins with.
    """
    app = typer.Typer(add_completion=False)
    app.command()(main)
    try:
        app()
    except AmbiError as error:
        typer.echo(f"{name}: {error}", err=True)
        sys.exit(error.exit_code)


class GuardedGroup(TyperGroup):
    """A command group whose commands' exceptions end as one line on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the chosen command.

        Args:
            ctx: Typer's context.
        """
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            # What can show itself is a usage error, which Typer reports; Typer answers a closed pipe too.
            is_reported = hasattr(error, "show") or getattr(error, "errno", None) == errno.EPIPE
            if is_reported or os.environ.get(DEBUG_VARIABLE):
                raise
            message, code = explain(error)
            typer.echo(f"ambi: {message}", err=True)
            raise typer.Exit(code) from None


class DefaultGroup(TyperGroup):
    """A group whose command `list` is meant where none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put in the command's name if it was left out.

        Args:
            ctx: Typer's context.
            args: Of the command line.
        """
        named = (*self.commands, *ctx.help_option_names)
        # A shell that completes the name has none yet.
        is_named = args[0] in named if args else ctx.resilient_parsing
        return super().parse_args(ctx, args if is_named else ["list", *args])
