"""The live table of a running search, on a terminal: trial, scores by task, best, rate, time left."""

from __future__ import annotations

import logging
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mergekit_optimer.search import Progress, Watch, duration, marks

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

# As many trials as leave room on a small terminal; the best stands among them whenever it was.
_LAST = 8


@contextmanager
def watched(console: Console | None = None) -> Iterator[Watch | None]:
    """Yield what draws each trial that ends into one table, or None where stderr is no terminal.

    The table begins with the first trial, stays when the search ends, and what is logged meanwhile stands above it.

    Args:
        console: Where to draw; None: stderr.
    """
    from rich.console import Console
    from rich.live import Live

    console = console or Console(stderr=True)
    # A dumb terminal is one, but cannot go up a line.
    if not console.is_terminal or console.is_dumb_terminal:
        yield None
        return
    trials = LiveTrials()
    live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=True)
    streams = [h for h in logging.getLogger().handlers if isinstance(h, logging.StreamHandler)]
    streams = [handler for handler in streams if handler.stream is sys.stderr]

    def watch(progress: Progress) -> None:
        if not live.is_started:
            live.start()
            for handler in streams:
                # The live table's own stderr: a line of the log goes above it.
                handler.setStream(sys.stderr)
        trials.add(progress)
        live.update(trials.table(), refresh=True)

    try:
        yield watch
    finally:
        if live.is_started:
            live.stop()
            for handler in streams:
                handler.setStream(sys.stderr)


class LiveTrials:
    """The last trials and the best one, as a table."""

    def __init__(self) -> None:
        self._last: deque[Progress] = deque(maxlen=_LAST)
        self._best: Progress | None = None

    def add(self, progress: Progress) -> None:
        """Take in one more trial."""
        self._last.append(progress)
        if progress.best_number == progress.record.number:
            self._best = progress

    def table(self) -> Table:
        """The table as it is now."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        now = self._last[-1]
        rows = list(self._last)
        if now.n_front is None and self._best is not None and self._best not in rows:
            rows.insert(0, self._best)
        tasks = sorted(now.record.scores)
        table = Table(
            title=Text(f"trial {now.n_done} of {now.n_trials}   {now.best}"),
            caption=Text(f"{now.trial_s:.1f} s a trial   {duration(now.left_s)} left"),
            title_justify="left",
            caption_justify="left",
            box=box.SIMPLE_HEAD,
        )
        table.add_column("trial", justify="right", no_wrap=True)
        table.add_column("objective", justify="right", no_wrap=True)
        for task in tasks:
            table.add_column(Text(task), justify="right", no_wrap=True)
        table.add_column("s", justify="right", no_wrap=True)
        table.add_column("from")
        for row in rows:
            table.add_row(*_cells(row, tasks), style="bold" if row.record.number == now.best_number else None)
        return table


def _cells(progress: Progress, tasks: list[str]) -> list[str | Text]:
    from rich.text import Text

    record = progress.record
    scores = (f"{record.scores[task].score.value:.4f}" if task in record.scores else "–" for task in tasks)
    value = f"{record.values[min(record.values)]:.4f}"
    how = ", ".join([record.source.removeprefix("warm_start/"), *marks(record)])
    return [f"#{record.number}", value, *scores, f"{progress.elapsed_s:.1f}", Text(how)]
