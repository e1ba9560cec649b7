"""Runs the command in a process of its own, forked where all is imported, and has exported once.

Importing takes longest. That nothing heavy is imported without need is tested elsewhere.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from pathlib import Path

PRELOADED = (
    *("bnlstm_deploy.cli.main", "bnlstm_deploy.checkpoint", "bnlstm_deploy.exporting"),
    *("bnlstm_deploy.verification.check", "bnlstm_deploy.runtime", "torch._dynamo"),
    "tests.cli.warm",
)

TIMEOUT = 300


def run(folder, *arguments):
    """Run `bnlstm-deploy` in a folder; return what `subprocess.run` does, with text."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    command = ["bnlstm-deploy", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    with tempfile.TemporaryDirectory() as said:
        process = context.Process(target=_main, args=(str(folder), command, environment, said))
        process.start()
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, TIMEOUT)
        stdout, stderr = (Path(said, name).read_text() for name in ("1", "2"))
    return subprocess.CompletedProcess(command, process.exitcode, stdout, stderr)


def _main(folder, command, environment, said):
    for stream in (1, 2):
        file = os.open(Path(said, str(stream)), os.O_WRONLY | os.O_CREAT)
        os.dup2(file, stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = command
    from bnlstm_deploy.cli.main import main

    main()
