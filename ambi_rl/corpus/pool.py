"""Threads that share jobs: compiled code releases the interpreter's lock, so one process is enough."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable

from ambi_rl.corpus.plan import Job
from ambi_rl.corpus.work import Outcome, StoppedError, Work


def run_threads(jobs: Iterable[Job], work: Work, workers: int) -> Generator[Outcome]:
    """Do jobs side by side.

    No more than `workers` files are held at a time. The threads take no more jobs when the iterator is
    closed, and do not keep the process from ending.

    Args:
        jobs: What to do.
        work: Does one.
        workers: Threads.

    Yields:
        Outcomes, as they come.
    """
    pending = iter(jobs)
    taking = threading.Lock()
    stopped = threading.Event()
    results: queue.SimpleQueue[Outcome | BaseException | None] = queue.SimpleQueue()

    def run() -> None:
        try:
            while not stopped.is_set():
                with taking:
                    job = next(pending, None)
                if job is None:
                    break
                results.put(work(job))
        except StoppedError:
            pass
        except BaseException as error:
            # A fault of the program, not of a file: whoever waits shall have it.
            results.put(error)
        results.put(None)

    for number in range(workers):
        threading.Thread(target=run, name=f"coder-{number}", daemon=True).start()
    try:
        running = workers
        while running:
            result = results.get()
            if result is None:
                running -= 1
            elif isinstance(result, BaseException):
                raise result
            else:
                yield result
    finally:
        stopped.set()
