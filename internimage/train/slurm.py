"""The script that starts a run on a cluster with SLURM."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

_SCRIPT = """\
#!/bin/bash
#SBATCH --job-name={name}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={tasks}
{cards}#SBATCH --cpus-per-task={cpus}
#SBATCH --time={time}
#SBATCH --output=slurm-%x-%j.log
#SBATCH --open-mode=append
#SBATCH --signal=TERM@120
#SBATCH --requeue

# Each task is one process of the run; rank and number of processes are read from SLURM's variables. Two minutes before
# the time is up SIGTERM saves a checkpoint, and the script puts itself into the queue again; then it goes on from it.
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export OMP_NUM_THREADS={threads}
export SRUN_CPUS_PER_TASK={cpus}  # later versions of srun do not take it from above

srun --kill-on-bad-exit=1 {command}
code=$?
if [ "$code" -eq 143 ]; then scontrol requeue "$SLURM_JOB_ID"; fi  # 143: stopped by SIGTERM, and saved
exit "$code"
"""


def slurm_script(
    command: Sequence[str],
    *,
    name: str,
    nodes: int = 1,
    processes_per_node: int = 8,
    cards: bool = True,
    cpus_per_process: int = 8,
    time: str = "2-00:00:00",
) -> str:
    """A batch script for ``sbatch`` that runs ``command`` in ``nodes * processes_per_node`` processes.

    The log goes where ``sbatch`` is called: SLURM makes no folders, and without one for the log a job ends unseen.

    Args:
        cards: whether each process has a card.
        time: as SLURM takes it, "days-hours:minutes:seconds".
    """
    for argument, value in (("nodes", nodes), ("processes_per_node", processes_per_node), ("cpus", cpus_per_process)):
        if value < 1:
            raise ValueError(f"{argument} is {value}, expected 1 or more")
    return _SCRIPT.format(
        name=name,
        nodes=nodes,
        tasks=processes_per_node,
        cards=f"#SBATCH --gpus-per-node={processes_per_node}\n" if cards else "",
        cpus=cpus_per_process,
        time=time,
        threads=max(1, min(cpus_per_process, 4)),
        command=shlex.join(command),
    )
