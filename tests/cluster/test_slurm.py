"""A sweep on a SLURM of this one machine, while a job is cancelled, another preempted, and the launcher killed."""

import os
import shutil

import pytest

from servers import slurm_cluster, wait_until
from sweeps import Launcher, assert_equal

pytest.importorskip("submitit")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("slurmctld") or os.geteuid() != 0, reason="needs slurm-wlm, munge and root"),
]


def test_a_sweep_survives_cancelling_preemption_and_its_launcher(folder, sweep_file, done_here):
    with slurm_cluster(folder) as slurm:
        launcher = Launcher(sweep_file, folder / "runs", "--on", "slurm", environment=slurm.environment)
        launcher.start()

        def jobs(state):
            return slurm.ask("squeue", "-h", "-r", f"--state={state}", "--name=iterconv", "-o", "%i").split()

        launcher.wait_for_finished(1)
        launcher.kill()
        before = launcher.finished()
        wait_until(lambda: launcher.finished() > before, 300, "jobs go on without a launcher")
        queued = len(jobs("PENDING"))
        launcher.start()

        wait_until(lambda: len(launcher.running()) == 2, 120, "two jobs are at work")
        assert slurm.ask("scancel", jobs("RUNNING")[0]) == ""
        assert len(jobs("PENDING")) <= queued, "nothing was queued twice"

        launcher.wait_for_finished(5)
        wait_until(lambda: len(launcher.running()) == 2, 120, "two jobs are at work")
        preempted = jobs("RUNNING")
        slurm.ask("sbatch", "--partition=urgent", "--ntasks=2", "--output=/dev/null", "--wrap=sleep 5")
        wait_until(lambda: set(preempted) <= set(jobs("PENDING")), 120, "both jobs are queued again")
        for job in preempted:  # SLURM would let them wait for two minutes
            slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")

        assert launcher.wait(1200) == 0, launcher.output()
        assert_equal(sweep_file, folder / "runs", done_here)
        logs = [path.read_text() for path in folder.glob("runs/.jobs/.slurm/*.out")]
        assert sum("JOB REQUEUE" in log for log in logs) == 2
        assert sum("CANCELLED" in log and "REQUEUE" not in log for log in logs) >= 1
