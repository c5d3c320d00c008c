"""Interruptions wait for the end of an update, where a checkpoint is exact; a second one does not wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ambi_rl.training.display import Display


class Stopping:
    """Whether somebody has asked for the run to stop.

    Args:
        display: Tells that it was heard.
    """

    def __init__(self, display: Display) -> None:
        self._display = display
        self._asked = False

    @contextmanager
    def between_updates(self) -> Iterator[None]:
        """Let the first interruption wait while inside, in the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def ask(number: int, frame: Any) -> None:
            signal.signal(signal.SIGINT, before)
            self._asked = True
            self._display.line("stopping after this update; interrupt again to stop at once")

        before = signal.signal(signal.SIGINT, ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def stop_if_asked(self, save: Callable[[], None]) -> None:
        """Save and stop, if it was asked for.

        Raises:
            KeyboardInterrupt: It was.
        """
        if self._asked:
            save()
            raise KeyboardInterrupt
