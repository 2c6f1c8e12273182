"""Programs that start with their libraries imported, as children of one process that has them.

Most of the time of a tiny job, and much of that of a plan, goes into imports of torch, transformers
and Snakemake. Here ``python -m MODULE ARGUMENTS`` is a small client that passes its command line,
environment, working directory and standard streams on to a server, which forks. What is imported
beforehand are libraries alone: every child imports the code of the project that it runs in.

Run as a program this file is the server: ``python warm_start.py SOCKET OWNER``, which ends when the
process OWNER is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

LIBRARIES = (
    "transformers",
    "transformers.models.llama.modeling_llama",
    "lm_eval.evaluator",
    "lm_eval.models.huggingface",
    "pandas",
    "pyarrow.parquet",
    "snakemake.cli",
)
# Some of them read these when they are imported, and steps set them before. None may start a thread:
# it would be lost in a fork.
SETTINGS = {
    "HF_HUB_OFFLINE": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": "",
    "TQDM_DISABLE": "1",
}
CLIENT = """\
#!{python} -IS
import json, os, socket, sys
if sys.argv[1:2] != ["-m"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
request = json.dumps([sys.argv[2:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(request).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(request)
    status = int(server.recv(8) or -9)
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


def start(owner: int) -> Path:
    """Start a server and return its client, a program named `python`.

    Args:
        owner: Process id; the server ends with this process.
    """
    # In a place of its own, since the address of a socket must be short.
    folder = Path(tempfile.mkdtemp(prefix="warm-"))
    address = folder / "socket"
    server = subprocess.Popen(
        [sys.executable, __file__, str(address), str(owner)],
        env={**os.environ, **SETTINGS},
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    client = _client(address)
    client.parent.mkdir()
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(0o755)
    while not address.exists():
        assert server.poll() is None, "the server has ended"
        time.sleep(0.1)
    return client


def _client(address: Path) -> Path:
    return address.with_name("bin") / "python"


def _serve(address: str, owner: int) -> None:
    for name in LIBRARIES:
        importlib.import_module(name)
    assert not any(name.partition(".")[0] == "lpsteps" for name in sys.modules)
    # Collections in the children would write to, and so copy, the memory that they share.
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{address}.new")
        listener.listen()
        listener.settimeout(1)
        Path(f"{address}.new").rename(address)
        while is_alive(owner):
            with contextlib.suppress(TimeoutError):
                client, _ = listener.accept()
                if os.fork() == 0:
                    listener.close()
                    _attend(address, client)
                client.close()
    shutil.rmtree(Path(address).parent)


def is_alive(process: int) -> bool:
    """Whether there is a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def _attend(address: str, client: socket.socket) -> None:
    """Run what a client asks for in a child, and tell it how that ended; never return."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    client.settimeout(None)
    head, streams, _, _ = socket.recv_fds(client, 8, 3)
    request = b""
    while len(request) < int.from_bytes(head, "big"):
        request += client.recv(1 << 16)
    words, folder, environment = json.loads(request)
    child = os.fork()
    if child == 0:
        client.close()
        for number, stream in enumerate(streams):
            os.dup2(stream, number)
            os.close(stream)
        _become(address, words, folder, environment)
    for stream in streams:
        os.close(stream)
    client.setblocking(False)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            client.sendall(str(os.waitstatus_to_exitcode(status)).encode())
            os._exit(0)
        with contextlib.suppress(BlockingIOError):
            if client.recv(1) == b"":
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                os._exit(0)
        time.sleep(0.005)


def _become(address: str, words: list[str], folder: str, environment: dict[str, str]) -> None:
    """Run ``python -m`` with these words, there; never return."""
    status = 1
    try:
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        paths = environment.get("PYTHONPATH", "").split(os.pathsep)
        sys.path[0:1] = [folder, *filter(None, paths)]
        importlib.invalidate_caches()
        sys.argv = words
        # Snakemake starts its jobs with the interpreter that runs it.
        sys.executable = str(_client(Path(address)))
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
