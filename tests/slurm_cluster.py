"""A temporary SLURM cluster of one node: munged, slurmctld and slurmd from Debian's packages, without systemd or root.

``python -m tests.slurm_cluster FOLDER`` starts one, prints the environment to use it, and stops it at Ctrl-C.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge")
PROGRAMS = ("munged", "slurmctld", "slurmd", "squeue", "sbatch")
SEARCH_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


class NoSlurm(RuntimeError):
    """No cluster can be started here; the message is one line."""


def missing_programs() -> list[str]:
    """Return the programs of a cluster that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=SEARCH_PATH) is None]


@contextmanager
def throwaway_cluster(folder: Path, cores: int = 2) -> Iterator[Mapping[str, str]]:
    """Start a cluster with its state in a folder, yield the environment variables to use it, and stop it.

    It has one node with this number of cores and a fake GPU (/dev/null). Raises NoSlurm if it cannot be started.
    """
    missing = missing_programs()
    if missing:
        raise NoSlurm(f"{missing[0]} is not installed: run apt-get install {' '.join(PACKAGES)}")
    host = socket.gethostname().split(".")[0]
    try:
        address = socket.gethostbyname(host)
    except OSError:
        address = "nothing"
    if address != "127.0.0.1":
        raise NoSlurm(f"{host} is {address}, not 127.0.0.1: put '127.0.0.1 {host}' first in /etc/hosts")
    for name in ("munge", "spool", "state"):
        (folder / name).mkdir(parents=True)
    os.chmod(folder / "munge", 0o711)
    key = folder / "munge/key"
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    (folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
    # Paths of sockets are limited to 108 bytes, which the folders of tests exceed.
    sockets = Path(f"/tmp/munge-{os.getpid()}-{secrets.token_hex(4)}")
    sockets.mkdir(mode=0o755)
    (folder / "slurm.conf").write_text(_configuration(folder, host, cores).replace("@SOCKETS@", str(sockets)))
    environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": SEARCH_PATH}
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        munge = ["munged", "--foreground", f"--key-file={key}", f"--socket={sockets}/munge", "--num-threads=2"]
        munge += [f"--{name}-file={folder}/munge/{name}" for name in ("pid", "log", "seed")]
        stack.enter_context(_daemon(munge, environment, folder / "munge.out"))
        _wait_until(lambda: Path(f"{sockets}/munge").exists(), "munged", folder)
        stack.enter_context(_daemon(["slurmctld", "-D"], environment, folder / "slurmctld.out"))
        _wait_until(lambda: _prints(environment, "scontrol", "ping", word="UP"), "slurmctld", folder)
        stack.enter_context(_daemon(["slurmd", "-D", "-N", host], environment, folder / "slurmd.out"))
        _wait_until(lambda: _prints(environment, "sinfo", "-h", "-o", "%t", word="idle"), "slurmd", folder)
        stack.callback(_end_jobs, environment)
        yield environment


def _configuration(folder: Path, host: str, cores: int) -> str:
    port = _free_ports(2)
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    lines = {
        "ClusterName": "throwaway",
        "SlurmctldHost": f"{host}(127.0.0.1)",
        "SlurmUser": user,
        "SlurmdUser": user,
        "SlurmctldPort": port[0],
        "SlurmdPort": port[1],
        "CommunicationParameters": "NoInAddrAny,NoCtldInAddrAny",
        "AuthType": "auth/munge",
        "CredType": "cred/munge",
        # The lifetime of credentials in seconds is also the delay of a requeued job.
        "AuthInfo": "socket=@SOCKETS@/munge,cred_expire=5",
        "StateSaveLocation": folder / "state",
        "SlurmdSpoolDir": folder / "spool",
        "SlurmctldPidFile": folder / "slurmctld.pid",
        "SlurmdPidFile": folder / "slurmd.pid",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "JobAcctGatherType": "jobacct_gather/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU",
        "GresTypes": "gpu",
        "SchedulerParameters": "batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1",
        "KillWait": 10,
        "ReturnToService": 2,
        "NodeName": f"{host} NodeAddr=127.0.0.1 CPUs={cores} RealMemory=4096 Gres=gpu:1 State=UNKNOWN",
        "PartitionName": f"all Nodes={host} Default=YES MaxTime=INFINITE State=UP",
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


@contextmanager
def _daemon(command: list[str], environment: Mapping[str, str], log: Path) -> Iterator[None]:
    program = shutil.which(command[0], path=SEARCH_PATH)
    assert program is not None
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *command[1:]], env=os.environ | environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _prints(environment: Mapping[str, str], *command: str, word: str) -> bool:
    return word in subprocess.run(command, env=os.environ | environment, capture_output=True, text=True).stdout


def _wait_until(ready: Callable[[], bool], what: str, folder: Path) -> None:
    until = time.monotonic() + 30
    while not ready():
        if time.monotonic() > until:
            logs = [path.read_text(errors="replace").splitlines() for path in folder.glob("*.out")]
            raise NoSlurm(f"{what} does not start: {' / '.join(line for log in logs for line in log[-2:])}")
        time.sleep(0.1)


def _end_jobs(environment: Mapping[str, str]) -> None:
    user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
    subprocess.run(["scancel", f"--user={user}"], env=os.environ | environment)
    until = time.monotonic() + 30
    while _prints(environment, "squeue", "-h", word=" ") and time.monotonic() < until:
        time.sleep(0.2)


if __name__ == "__main__":
    try:
        with throwaway_cluster(Path(sys.argv[1]).resolve()) as environment:
            print("\n".join(f"export {name}='{value}'" for name, value in environment.items()), flush=True)
            # Blocked only after the start of the daemons, which would inherit the mask.
            signals = {signal.SIGINT, signal.SIGTERM}
            signal.pthread_sigmask(signal.SIG_BLOCK, signals)
            signal.sigwait(signals)
    except NoSlurm as error:
        sys.exit(f"slurm: {error}")
