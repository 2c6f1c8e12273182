from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import warm_start

PROGRAM = """\
import os, sys, time
print(os.getcwd(), os.environ["PLACE"], *sys.argv[1:], "torch" in sys.modules, flush=True)
print(sys.stdin.read(), file=sys.stderr)
sys.exit(3)
"""
SLEEPER = """\
import os, sys, time
open("started", "w").write(str(os.getpid()))
time.sleep(600)
"""


def test_a_program_runs_as_and_where_its_client_does(warm_python: Path, tmp_path: Path):
    (tmp_path / "shows.py").write_text(PROGRAM)
    run = subprocess.run(
        [str(warm_python), "-m", "shows", "one word"],
        cwd=tmp_path,
        env={**os.environ, "PLACE": "here"},
        input="given",
        capture_output=True,
        text=True,
    )
    assert run.stdout == f"{tmp_path} here one word True\n"
    assert (run.returncode, run.stderr) == (3, "given\n")


def test_a_program_ends_with_its_client(warm_python: Path, tmp_path: Path):
    (tmp_path / "sleeps.py").write_text(SLEEPER)
    client = subprocess.Popen([str(warm_python), "-m", "sleeps"], cwd=tmp_path)
    started = tmp_path / "started"
    while not (started.exists() and started.read_text()):
        assert client.poll() is None
        time.sleep(0.01)
    client.kill()
    client.wait()
    for _ in range(1000):
        if not warm_start.is_alive(int(started.read_text())):
            return
        time.sleep(0.01)
    raise AssertionError("the program still runs")


def test_a_program_that_is_killed_tells_its_client(warm_python: Path, tmp_path: Path):
    (tmp_path / "dies.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    assert subprocess.run([str(warm_python), "-m", "dies"], cwd=tmp_path).returncode == -9
