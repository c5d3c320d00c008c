"""The command line, `ambi`: this module is only its entry point, so that starting is quick."""

from __future__ import annotations

import sys


def main() -> None:
    """Run `ambi` with the arguments of the process."""
    try:
        from ambi_rl.cli.app import app

        app()
    except KeyboardInterrupt:
        # Interrupted before or after the command proper, where nothing else answers.
        sys.exit(130)
