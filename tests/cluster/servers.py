"""Servers of a Ray cluster and of a SLURM cluster on this machine, started and stopped by their process ids."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HEAD = "127.0.0.2"
"""The address of Ray's head. Ray replaces 127.0.0.1 by the machine's address in its network, and no other of these."""


def wait_until(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Wait for a condition, and say what did not come about in time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds:.0f} seconds in vain: {what}"
        time.sleep(0.1)


def descendants(pid: int) -> list[int]:
    """List a process and all processes below it, the lowest last."""
    found = [pid]
    parents: dict[int, list[int]] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended meanwhile
            continue
        parents.setdefault(int(fields[1]), []).append(int(status.parent.name))
    for process in found:
        found.extend(parents.get(process, []))
    return found


def kill_tree(pid: int) -> None:
    """Kill a process and all below it at once, as the loss of a machine would: none can react to another's death."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for process in descendants(pid):
            try:
                os.kill(process, number)
            except ProcessLookupError:
                pass


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RayCluster:
    """A Ray cluster of nodes on loopback addresses; its head does no work.

    Args:
        folder: A new folder for logs and the token. Ray's sockets lie in it, so its path must be short.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        self.address = f"{HEAD}:{free_port()}"
        token = folder / "token"
        token.touch(mode=0o600)
        token.write_text(secrets.token_hex(32))
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environment = {
            **os.environ,
            "PATH": path,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def start_head(self) -> None:
        """Start the head and wait until it answers."""
        port = self.address.rpartition(":")[2]
        self._start("head", HEAD, "--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false")

    def start_node(self, name: str, address: str, cpus: int = 1) -> None:
        """Start a node and wait until it has joined."""
        self._start(name, address, f"--address={self.address}", f"--num-cpus={cpus}")

    def _start(self, name: str, address: str, *options: str) -> None:
        log, temporary = self._folder / f"{name}.log", self._folder / name
        common = (f"--node-ip-address={address}", f"--temp-dir={temporary}", "--object-store-memory=80000000")
        command = [shutil.which("ray", path=self.environment["PATH"]) or "ray", "start", "--block", *common, *options]
        with log.open("wb") as output:
            self._nodes[name] = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True
            )
        wait_until(lambda: "Ray runtime started" in log.read_text(), 120, f"{name} has started; see {log}")

    def processes(self, name: str) -> list[int]:
        """List the processes of a node."""
        return descendants(self._nodes[name].pid)

    def kill_node(self, name: str) -> None:
        """Kill all processes of a node."""
        node = self._nodes.pop(name)
        kill_tree(node.pid)
        node.wait()

    def stop(self) -> None:
        """End all nodes."""
        for name in list(self._nodes):
            self.kill_node(name)


@contextmanager
def ray_cluster(folder: Path) -> Iterator[RayCluster]:
    """Have a Ray cluster of a head and two nodes, "first" and "second", of one processor each."""
    cluster = RayCluster(folder)
    try:
        cluster.start_head()
        for number, name in enumerate(["first", "second"], start=3):
            cluster.start_node(name, f"127.0.0.{number}")
        yield cluster
    finally:
        cluster.stop()


SLURM_CONF = """\
ClusterName=here
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
SlurmctldPort={controller}
SlurmdPort={daemon}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerParameters=batch_sched_delay=1,sched_interval=2,bf_interval=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=runs Nodes=localhost Default=YES PriorityTier=1 GraceTime=60 State=UP
PartitionName=urgent Nodes=localhost PriorityTier=10 PreemptMode=off State=UP
"""


class Slurm:
    """A SLURM of one node with two partitions: jobs of "urgent" take the place of those of "runs".

    Args:
        folder: A new folder for keys, logs and state, which other users may enter.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._servers: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def start(self, cpus: int = 2) -> None:
        """Start munge, the controller and the node, and wait until the node is idle."""
        folder = self._folder
        munge, key = folder / "munge", folder / "munge" / "key"
        munge.mkdir()
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        for path in (munge, key):
            shutil.chown(path, "munge", "munge")
        conf = SLURM_CONF.format(folder=folder, controller=free_port(), daemon=free_port(), cpus=cpus)
        (folder / "slurm.conf").write_text(conf)
        files = [f"--{name}-file={munge}/{name}" for name in ("key", "pid", "seed", "log")]
        as_munge = ["setpriv", "--reuid=munge", "--regid=munge", "--clear-groups"]
        self._serve(*as_munge, "munged", "--foreground", f"--socket={munge}/socket", *files)
        wait_until((munge / "socket").exists, 10, "munged answers")
        self._serve("slurmctld", "-D", "-c")
        self._serve("slurmd", "-D", "-N", "localhost")
        wait_until(lambda: "idle" in self.ask("sinfo", "-h", "-o", "%T"), 60, f"the node is idle; see {folder}")

    def _serve(self, *command: str) -> None:
        with (self._folder / "servers.log").open("ab") as output:
            self._servers.append(
                subprocess.Popen(command, stdout=output, stderr=output, env=self.environment, start_new_session=True)
            )

    def ask(self, *command: str) -> str:
        """Run one of SLURM's commands; what it says on failure is returned too."""
        output = subprocess.run(command, env=self.environment, stdout=-1, stderr=subprocess.STDOUT, timeout=60)
        return output.stdout.decode()

    def stop(self) -> None:
        """End what is left of jobs, whose processes are nobody's children, and then the servers."""
        self.ask("scancel", "--me", "--state=PENDING")
        self.ask("scancel", "--me", "--full", "--signal=KILL")
        wait_until(lambda: "job" not in self.ask("squeue", "-h", "--me", "-o", "job %i"), 60, "no job is left")
        for server in reversed(self._servers):
            kill_tree(server.pid)
            server.wait()


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[Slurm]:
    """Have a SLURM of one node, this machine."""
    cluster = Slurm(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
