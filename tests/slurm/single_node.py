"""A Slurm of one node on loopback: real daemons from Debian's packages, no systemd, no database.

Jobs are killed when they use more memory than they asked for, and there is one GPU in name only,
with `/dev/null` for its device.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = (
    "munged",
    "munge",
    "unmunge",
    "slurmctld",
    "slurmd",
    "sbatch",
    "squeue",
    "sinfo",
    "scancel",
)
MARK = "# Written by tests/slurm/single_node.py"
# The plugin takes all variables of Slurm's from a job, SLURM_CONF too: only the standard place works.
CONFIG = Path("/etc/slurm")
STATE = Path("/run/linearpatch-slurm")
MUNGE = Path("/run/munge")
CORES, MEGABYTES = 2, 30000


def reason_to_skip() -> str | None:
    """Return why no Slurm can be started here, if so."""
    missing = [name for name in PROGRAMS if shutil.which(name, path=_search_path()) is None]
    if missing:
        return f"Slurm is not installed ({', '.join(missing)} missing): make test-slurm"
    if os.geteuid() != 0:
        return "starting Slurm needs root"
    file = CONFIG / "slurm.conf"
    if file.exists() and not file.read_text().startswith(MARK):
        return f"{file} belongs to another Slurm"
    return None


def _search_path() -> str:
    return os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _slurm_conf(host: str) -> str:
    return f"""{MARK}
ClusterName=linearpatch
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort=16817
SlurmdPort=16818
SrunPortRange=16900-16999
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={STATE}/slurmctld
SlurmdSpoolDir={STATE}/slurmd
SlurmctldPidFile={STATE}/slurmctld.pid
SlurmdPidFile={STATE}/slurmd.pid
SlurmctldLogFile={STATE}/slurmctld.log
SlurmdLogFile={STATE}/slurmd.log
MailProg=/bin/true
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=5
MinJobAge=600
KillWait=2
GresTypes=gpu
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs={CORES} Boards=1 SocketsPerBoard=1 CoresPerSocket={CORES} ThreadsPerCore=1 RealMemory={MEGABYTES} Gres=gpu:1 State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=INFINITE DefMemPerCPU=200 State=UP
"""


def _gres_conf(host: str) -> str:
    return f"AutoDetect=off\nNodeName={host} Name=gpu File=/dev/null\n"


def _run(*command: str) -> str:
    environment = {**os.environ, "PATH": _search_path()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


def _wait_for_idle_node(seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (state := _run("sinfo", "--noheader", "--format=%t")) != "idle":
        logs = "".join(path.read_text()[-2000:] for path in sorted(STATE.glob("*.log")))
        assert time.monotonic() < deadline, f"the node is {state!r} after {seconds} s\n{logs}"
        time.sleep(0.2)


def _cancel_all_jobs(seconds: float) -> None:
    """Cancel what still runs, and wait until it has ended: a node that stops leaves its jobs alive."""
    deadline = time.monotonic() + seconds
    while _run("squeue", "--noheader") and time.monotonic() < deadline:
        _run("scancel", "--user", "root")
        time.sleep(1)


def _stop(pid_file: Path) -> None:
    """Stop the daemon that wrote this file, and no other that has its number by now."""
    if not pid_file.exists():
        return
    process = int(pid_file.read_text())
    name = Path(f"/proc/{process}/comm")
    if not name.exists() or name.read_text().strip() != pid_file.stem:
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.kill(process, number)
            for _ in range(100):
                time.sleep(0.1)
                os.kill(process, 0)
        except ProcessLookupError:
            return


def _stop_daemons() -> None:
    for pid_file in (STATE / "slurmd.pid", STATE / "slurmctld.pid", MUNGE / "munged.pid"):
        _stop(pid_file)


@contextmanager
def single_node_slurm() -> Iterator[None]:
    """Start munge, the controller and the node; stop them and remove their files at the end."""
    host = socket.gethostname().partition(".")[0]
    STATE.mkdir(mode=0o755, exist_ok=True)
    CONFIG.mkdir(mode=0o755, exist_ok=True)
    for name in ("slurmctld", "slurmd"):
        (STATE / name).mkdir(exist_ok=True)
    MUNGE.mkdir(mode=0o755, exist_ok=True)
    shutil.chown(MUNGE, "munge", "munge")
    (CONFIG / "slurm.conf").write_text(_slurm_conf(host))
    (CONFIG / "gres.conf").write_text(_gres_conf(host))
    # Those of tests that were killed.
    _stop_daemons()
    try:
        _run("runuser", "-u", "munge", "--", "munged", "--num-threads=2")
        _run("slurmctld", "-c")
        _run("slurmd", "-c")
        _wait_for_idle_node(20)
        yield
    finally:
        if (STATE / "slurmctld.pid").exists():
            _cancel_all_jobs(30)
        _stop_daemons()
        (CONFIG / "slurm.conf").unlink()
        (CONFIG / "gres.conf").unlink()
        shutil.rmtree(STATE)
