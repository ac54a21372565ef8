"""Batch systems: scripts are submitted, listed and cancelled with the system's own commands.

`profiles` has each system's commands as data, and `systems` runs them; `one_host` is a batch system for a single host, and
`dask_cluster` makes one of a cluster of Dask.
`private` and `keeper` give an allocation to one job of a broker, `fabric` to one script: `torque`, `pbs`, `slurm`, `sge`
and `local` stand for `BatchFabric` of that system. `park-broker` starts `allocator_keeper`,
commands and scripts the others. The room imports the words, `park.util` and `park.net`; modules that connect to a broker
also import the service.
"""

from __future__ import annotations

from typing import Any

__all__ = ["BatchFabric", "local", "pbs", "sge", "slurm", "torque"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'park.batch' has no attribute {name!r}")
    from functools import partial
    from importlib import import_module

    made = import_module("park.batch.fabric").BatchFabric
    return made if name == "BatchFabric" else partial(made, name)
