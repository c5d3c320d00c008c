"""The command line, `ambi`: this module is only its entry point, so that starting is quick."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run `ambi` with the arguments of the process."""
    try:
        from ambi_rl.cli.app import app

        app()
    # What happens before or after the command proper, where nothing else answers.
    except KeyboardInterrupt:
        sys.exit(130)
    except OSError as error:
        if os.environ.get("AMBI_DEBUG"):
            raise
        sys.exit(f"ambi: {error.strerror or error}")
