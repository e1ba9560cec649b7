"""A session in a process of its own: python -m bnlstm_deploy.runtime.worker.

It reads pickles from standard input, first the path, the provider and whether the native kernel is
wanted, then inputs by name and whether to check them, and answers each on standard output: facts
about the graph, outputs by name, or an error of this package. Whoever starts it owns both ends.
"""

import contextlib
import os
import pickle
import signal
import sys
from pathlib import Path
from typing import IO

from bnlstm_deploy.errors import BnlstmError
from bnlstm_deploy.runtime.session import Session

FACTS = ("metadata", "signature", "native")


class _Beside(Session):
    """A session beside others, which need the cores while it waits."""

    spins = False


def main() -> None:
    """Answer until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it decides
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    with contextlib.suppress(EOFError, BrokenPipeError):
        _work(sys.stdin.buffer, answers)
    with contextlib.suppress(BrokenPipeError):
        answers.close()


def _work(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests.

    Raises:
        EOFError: The other end closed; or a BrokenPipeError.
    """
    path, provider, native = pickle.load(requests)
    try:
        session = _Beside(Path(path), providers=(provider,), native=native)
    except BnlstmError as error:
        pickle.dump(error, answers)
        return
    answer: object = {name: getattr(session, name) for name in FACTS}
    while True:
        pickle.dump(answer, answers)
        answers.flush()
        feeds, checked = pickle.load(requests)
        try:
            answer = session.run(feeds) if checked else session.run_unchecked(feeds)
        except BnlstmError as error:
            answer = error


if __name__ == "__main__":
    main()
