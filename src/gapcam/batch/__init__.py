"""Many pictures: in shards, in parallel, written as they come, taken up again after a kill.

`localize_into` is a whole run. Its parts, in the order of the data: `plan` cuts inputs into shards,
`takeup` finds what is left to do, `local` gives shards to threads, `work` does one, `shards` writes
it, `finish` makes results of all. `manifest` knows the folder, `run` joins them.
"""

from gapcam.batch.manifest import ERRORS, RESULTS, SETTINGS, SHARDS, UNFINISHED
from gapcam.batch.options import (
    STAGES,
    Result,
    RunOptions,
    RunSpec,
    ShardDone,
    ShardKind,
    Summary,
    Watch,
)
from gapcam.batch.overlays import WithoutResults, overlay_path, without_results
from gapcam.batch.plan import Inputs, Item, Reader, ShardTask, as_inputs
from gapcam.batch.run import Plan, localize_into, localize_many, prepare
from gapcam.batch.work import record_of, run_shard

__all__ = [
    "ERRORS",
    "RESULTS",
    "SETTINGS",
    "SHARDS",
    "STAGES",
    "UNFINISHED",
    "Inputs",
    "Item",
    "Plan",
    "Reader",
    "Result",
    "RunOptions",
    "RunSpec",
    "ShardDone",
    "ShardKind",
    "ShardTask",
    "Summary",
    "Watch",
    "WithoutResults",
    "as_inputs",
    "localize_into",
    "localize_many",
    "overlay_path",
    "prepare",
    "record_of",
    "run_shard",
    "without_results",
]
