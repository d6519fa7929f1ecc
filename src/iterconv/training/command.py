"""The command line that trains a run again."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from iterconv.training.config import RunConfig


def command_of_run(values: Mapping[str, Any]) -> str:
    """Write the command that trains and measures a run.

    Args:
        values: The fields of its configuration, as a row of a table has them, and possibly others. What is missing or
            NaN is at its default.

    Returns:
        The command, with the options in which the run differs from a run of ``iterconv train`` on the same data.
    """
    given = {field.name: values[field.name] for field in fields(RunConfig) if _is_given(values.get(field.name))}
    # Tables turn whole numbers into floats where some rows lack them.
    whole = {name: int(v) if isinstance(v, float) and v.is_integer() else v for name, v in given.items()}
    run = RunConfig.from_dict(whole)
    usual = RunConfig(data=run.data, coupling=run.coupling, first_coupled=run.first_coupled, blocks=run.blocks)
    words = ["iterconv", "train", "--data", run.data]
    for field in fields(RunConfig):
        name, value = field.name, getattr(run.resolved(), field.name)
        differs = value != getattr(usual.resolved(), name) or name in ("coupling", "first_coupled", "blocks")
        if name != "data" and differs and value != field.default:
            words += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return shlex.join(words)


def _is_given(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))
