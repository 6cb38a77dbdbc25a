"""Signals that ask a run to stop: it saves after the step it is in."""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType
from typing import Any

#: Exit code of a run that SIGTERM or SIGUSR1 stopped after it had saved: start it again, with --resume.
REQUEUE = 75
_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class StopSignals:
    """Within it SIGTERM, SIGINT and SIGUSR1 are noted in `received`; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self.received: int | None = None
        self._since = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        # Python lets only the main thread set handlers.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        # Launchers pass on a signal that the terminal has sent already: one Ctrl-C may come twice.
        if number == signal.SIGINT and self.received is not None and time.monotonic() - self._since > 1:
            raise KeyboardInterrupt
        if self.received is None:
            self.received, self._since = number, time.monotonic()

    def leave(self) -> None:
        """End the process as the signal asks, after saving.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: with `REQUEUE` after the others.
        """
        if self.received == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(REQUEUE)


def outlive_signals(worker: int) -> None:
    """Let a process that loads data live on while its run saves; the run ends it. For `worker_init_fn`."""
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN if number != signal.SIGTERM else _once)


def _once(number: int, frame: FrameType | None) -> None:
    # Torch ends workers that do not answer with the same signal.
    signal.signal(number, signal.SIG_DFL)
