from .errors import DamagedRun as DamagedRun, DiskFull as DiskFull, InUse as InUse
from .locks import LEASE_S as LEASE_S, describe_owner as describe_owner, held as held
from .machine import lock_in_use as lock_in_use, machine_facts as machine_facts
from .own_table import OWN as OWN, numbers_of as numbers_of
from .queue import (
    QueuedTask as QueuedTask, is_queued as is_queued, queue_knows as queue_knows, queued_jobs as queued_jobs,
)
from .readers import read_records as read_records, read_run as read_run, read_store as read_store
from .record import RunRecord as RunRecord
from .run import FINISHED as FINISHED, Run as Run, all_runs as all_runs, find_run as find_run
from .serialization import Submitted as Submitted, robustness_to_json as robustness_to_json
from .status import (
    HOW_TO_RESUME as HOW_TO_RESUME, Outcome as Outcome, ROBUSTNESS as ROBUSTNESS, exit_code as exit_code,
    is_complete as is_complete, missing_evaluations as missing_evaluations, outcome_of as outcome_of,
    outcome_of_task as outcome_of_task, run_title as run_title, status_table as status_table,
)
from .table import load_runs as load_runs, tabulate_robustness as tabulate_robustness
from .sweeps import planned_runs as planned_runs
