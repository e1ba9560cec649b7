"""Runs the command in a process of its own, forked where all is imported, and has exported once.

Importing takes longest. That nothing heavy is imported without need is tested elsewhere.
"""

import contextlib
import json
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

PRELOADED = (
    *("bnlstm_deploy.cli.main", "bnlstm_deploy.checkpoint", "bnlstm_deploy.exporting"),
    *("bnlstm_deploy.verification.check", "bnlstm_deploy.runtime", "torch._dynamo"),
    "tests.cli.warm",
)

TIMEOUT = 300


def run(folder, *arguments):
    """Run `bnlstm-deploy` in a folder; return what `subprocess.run` does, with text."""
    command = ["bnlstm-deploy", *map(str, arguments)]
    environment = os.environ | {"COLUMNS": "200", "NO_COLOR": "1"}
    return _captured(command, _command, (command,), str(folder), environment)


def run_python(code, folder, environment):
    """Run a program in a folder, as `python -c`; return what `subprocess.run` does, with text."""
    return _captured(["python", "-c", code], _python, (code,), str(folder), environment)


@contextlib.contextmanager
def on_path(folder):
    """Yield an environment in which `bnlstm-deploy`, in a shell, is forked like that.

    Args:
        folder: For the program of this name, and its socket.
    """
    program, address = folder / "bin" / "bnlstm-deploy", str(folder / "socket")
    program.parent.mkdir()
    shebang = f"#!{sys.executable} -ISE\n"
    installed = str(Path(sys.executable).with_name(program.name))
    program.write_text(shebang + PROGRAM.format(address=address, installed=installed))
    program.chmod(0o755)
    with socket.create_server(address, family=socket.AF_UNIX) as server:
        threading.Thread(target=_serve, args=(server,), daemon=True).start()
        path = os.pathsep.join(
            (str(program.parent), str(Path(sys.executable).parent), os.environ["PATH"])
        )
        yield os.environ | {"PATH": path}
        server.shutdown(socket.SHUT_RDWR)  # so that nothing is accepted any more


PROGRAM = """
import json, os, socket, sys

if sys.argv[1:2] == ["serve"]:  # it is sent signals
    os.execv("{installed}", sys.argv)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect("{address}")
    asked = os.getpid(), ["bnlstm-deploy", *sys.argv[1:]], os.getcwd(), dict(os.environ)
    connection.sendall(json.dumps(asked).encode() + b"\\n")
    sys.exit(int(connection.makefile().readline()))
"""


def _serve(server):
    with contextlib.suppress(OSError):  # it is shut down
        while True:
            connection, _ = server.accept()
            with connection, connection.makefile() as asking:
                caller, command, folder, environment = json.loads(asking.readline())
                streams = [f"/proc/{caller}/fd/{number}" for number in range(3)]
                status = _forked(command, _command, (command,), folder, environment, streams)
                connection.sendall(b"%d\n" % (128 - status if status < 0 else status))


def _captured(command, what, arguments, folder, environment):
    with tempfile.TemporaryDirectory() as said:
        streams = [os.devnull, f"{said}/1", f"{said}/2"]
        status = _forked(command, what, arguments, folder, environment, streams)
        stdout, stderr = (Path(name).read_text() for name in streams[1:])
    return subprocess.CompletedProcess(command, status, stdout, stderr)


def _forked(command, what, arguments, folder, environment, streams):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    process = context.Process(target=_main, args=(what, arguments, folder, environment, streams))
    process.start()
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired(command, TIMEOUT)
    return process.exitcode


def _main(what, arguments, folder, environment, streams):
    for number, path in enumerate(streams):
        file = os.open(path, os.O_WRONLY | os.O_CREAT if number else os.O_RDONLY)
        os.dup2(file, number)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    what(*arguments)


def _command(command):
    sys.argv = command
    from bnlstm_deploy.cli.main import main

    main()


def _python(code):
    exec(compile(code, "<snippet>", "exec"), {"__name__": "__main__"})
