"""The program: what signals do to it.

All else is imported in `main`, so that a signal finds this in place at any moment.
"""

import signal
import sys
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

STOPPED = 128
"""Exit status of a program that a signal ends, less the signal's number."""

_received: list[int] = []


class Stopped(BaseException):
    """SIGINT or SIGTERM has come."""


def main() -> None:
    """Run the command line.

    SIGINT and SIGTERM are one line, and exit status 130 or 143; what was being written is removed.
    """
    for number in SIGNALS:
        signal.signal(number, _stop)
    status: object = 0
    try:
        from bnlstm_deploy.cli.main import main as run

        run()
    except SystemExit as error:
        status = error.code
    except BaseException:  # whatever a library has made of it
        if not _received:
            raise
    finally:
        for number in SIGNALS:  # threads are waited for, which may well be ended
            signal.signal(number, signal.SIG_DFL)
    if _received:
        print(f"stopped by {signal.Signals(_received[0]).name}", file=sys.stderr)
        status = STOPPED + _received[0]
    sys.exit(status)  # type: ignore[arg-type]


def _stop(number: int, frame: FrameType | None) -> None:
    """Stop, once: what is cleaned up then is not to be stopped again."""
    del frame
    if not _received:
        _received.append(number)
        raise Stopped


if __name__ == "__main__":
    main()
