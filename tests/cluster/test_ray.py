"""A sweep on a Ray cluster of two nodes on this machine, while a worker, a node and the launcher are killed."""

import os
import signal

import pytest

from iterconv.studies import leases
from servers import ray_cluster, wait_until
from sweeps import Launcher, assert_equal

pytest.importorskip("ray")
pytestmark = pytest.mark.slow


def test_a_sweep_survives_a_worker_a_node_and_its_launcher(folder, sweep_file, done_here):
    with ray_cluster(folder) as cluster:
        options = ("--on", "ray", "--address", cluster.address)
        launcher = Launcher(sweep_file, folder / "runs", *options, environment=cluster.environment)
        launcher.start()

        def at_work(node):
            return [pid for pid in launcher.running() if pid in cluster.processes(node)]

        launcher.wait_for_finished(1)
        wait_until(lambda: at_work("first"), 120, "the first node has a job at work")
        worker = at_work("first")[0]
        harmed = launcher.running()[worker]
        os.kill(worker, signal.SIGKILL)

        launcher.wait_for_finished(3)
        launcher.kill()
        launcher.start()

        launcher.wait_for_finished(5)
        wait_until(lambda: at_work("second"), 120, "the second node has a job at work")
        moved = launcher.running()[at_work("second")[0]]
        cluster.kill_node("second")

        assert launcher.wait(1200) == 0, launcher.output()
        assert_equal(sweep_file, folder / "runs", done_here)
        assert leases.read_state(folder / "runs", harmed).deaths == 1, "a worker that dies counts"
        assert leases.read_state(folder / "runs", moved).deaths == (moved == harmed), "a lost node does not"
