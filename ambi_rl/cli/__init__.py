"""The command line, `ambi`: this module is only its entry point, so that starting is quick."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run `ambi` with the arguments of the process."""
    try:
        from ambi_rl.cli.app import app

        app()
    except SystemExit as leaving:
        _leave(leaving)
    # What happens before or after the command proper, where nothing else answers.
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if os.environ.get("AMBI_DEBUG"):
            raise
        sys.exit(f"ambi: {error.strerror or error}")


def _leave(leaving: SystemExit) -> None:
    """End the process at once after a codec command.

    Taking the compiler apart costs a third of a second, a quarter of what a decode takes, and files are
    closed by then. Training ends in the usual way, for its libraries have threads and files of their own.
    """
    if "torch" in sys.modules or not (leaving.code is None or isinstance(leaving.code, int)):
        raise leaving
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(leaving.code or 0)
