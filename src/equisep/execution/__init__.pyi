from .device import choose_device as choose_device
from .job import Job as Job, prepare as prepare
from .slurm import run_in_process as run_in_process, run_on_cluster as run_on_cluster
from .slurm_options import Resources as Resources
from .sweep import (
    RemoteExecutor as RemoteExecutor, Request as Request, launch_sweep as launch_sweep, run_one as run_one,
    run_sweep as run_sweep,
)
from .tracking import mirror_store as mirror_store
