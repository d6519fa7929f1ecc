"""Models by name: a run's folder, ``timm:NAME``, ``hf:PATH``, ``module:function``."""

import importlib
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from iterconv import data
from iterconv.adapters import adapt
from iterconv.adapters.outputs import is_causal
from iterconv.batches import inputs_of
from iterconv.errors import InputError
from iterconv.options import Reference
from iterconv.stages import CONTRACT
from iterconv.subjects import feeding
from iterconv.subjects.common import Opened, judged, line_of, placed
from iterconv.subjects.hugging_face import open_hugging_face
from iterconv.subjects.timm_models import open_timm
from iterconv.subjects.wishes import Wishes


@dataclass(frozen=True, eq=False)
class Subject:
    """A model that can be measured, and what on."""

    place: Path
    """Where files about it go: a run's folder, or here."""
    file_stem: str
    """What they are called, outside of a run's folder."""
    model: Any
    """Satisfies the contract."""
    batches: Any
    reference: Reference
    """``"labels"`` where there are labels that fit the model's outputs, else ``"predictions"``."""
    examples: int | None
    """How many there are, where that is known."""
    note: str
    """What a user should know of how the two were brought together."""


_KINDS = {"timm": open_timm, "hf": open_hugging_face}


def open_subject(name: str, wishes: Wishes) -> Subject:
    """Open a model and the data that it is to be measured on.

    Args:
        name: A run's folder, ``timm:NAME``, ``hf:PATH`` or ``module:function``.
        wishes: Data, weights, stages, sizes, precision and device.

    Returns:
        The subject.

    Raises:
        InputError: If there is no such model, weights, data or device, they don't fit, or a wish is out of range.
    """
    if wishes.examples < 1 or wishes.batch_size < 1:
        raise InputError(f"--examples {wishes.examples} and --batch-size {wishes.batch_size} have to be 1 or more")
    if ":" not in name or Path(name).exists():
        return _run(name, wishes)
    kind, rest = name.split(":", 1)
    if kind in _KINDS:
        model, batches, reference, note, output = _KINDS[kind](rest, wishes)
    else:
        model, batches, reference, note, output = _function(name, wishes)
    model = placed(model, wishes)
    first = next(iter(batches), None)
    if first is None:
        raise InputError(f"{name} comes with no batches; pass --data, or return some")
    if all(hasattr(model, part) for part in CONTRACT):
        if wishes.stages:
            raise InputError(f"--stages {wishes.stages[0]} is for models without stages of their own")
        staged = model
    else:
        staged = adapt(model, inputs_of(first, model), stages=list(wishes.stages) or None, output=output)
        note = f"{note}; stages {', '.join(map(str, staged.found))}"
    slug = re.sub(r"[^\w.-]+", "-", name.removeprefix("hf:")).strip("-.")
    return Subject(Path(), slug, staged, batches, reference, _count(batches), note)


def _run(name: str, wishes: Wishes) -> Subject:
    from iterconv.training.run import open_run

    foreign = ("data", "weights", "stages", "precision", "examples")
    given = [field for field in foreign if getattr(wishes, field) != getattr(Wishes(), field)]
    if given:
        raise InputError(f"--{given[0]} is for foreign models (timm:NAME, hf:PATH, module:function); {name} is a run")
    network, dataset, _ = open_run(Path(name), wishes.device)
    batches = dataset.batches(dataset.test, wishes.batch_size)
    return Subject(Path(name), "", network, batches, "labels", len(dataset.test), f"{dataset.name}, test split")


def _function(name: str, wishes: Wishes) -> Opened:
    module, function = name.rsplit(":", 1)
    if wishes.weights != "pretrained":
        raise InputError(f"--weights {wishes.weights} is not for {name}; let the function load its weights")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    known = "a folder of a run, timm:NAME, hf:PATH or module:function"
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as problem:
        raise InputError(f"{name}: there is no module {problem.name!r}; pass {known}") from None
    except Exception as problem:  # noqa: BLE001 - a user's own code, or no module's name at all
        raise InputError(
            f"{name}: importing {module!r} raised {type(problem).__name__}: {line_of(problem)}; pass {known}"
        ) from None
    made = getattr(imported, function, None)
    if not callable(made):
        raise InputError(f"{name}: the module {module!r} has no function {function!r}")
    try:
        made = made()
    except Exception as problem:  # noqa: BLE001 - a user's own code
        raise InputError(f"{name}() raised {type(problem).__name__}: {line_of(problem)}") from None
    model, batches = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{name}() returned {type(model).__name__}, no torch module; let it return one, or (module, batches)"
        )
    if wishes.data is None:
        if batches is None:
            raise InputError(f"{name}() returned a model alone; pass --data NAME, or let it return (model, batches)")
        batches = batches if isinstance(batches, (list, feeding.ImageBatches)) else list(batches)
        labelled = all(isinstance(batch, (tuple, list)) and len(batch) == 2 for batch in batches)
        labelled = labelled or all(isinstance(batch, dict) and "labels" in batch for batch in batches)
        labelled = labelled or is_causal(model)  # whose labels are the next tokens
        return model, batches, "labels" if labelled else "predictions", f"{type(model).__name__}, own batches", None
    loaded = data.load(wishes.data, evaluation_samples=wishes.examples)
    found = loaded.batches(loaded.test, wishes.batch_size)
    return judged(model, found, loaded.classes, None, wishes)


def _count(batches: Any) -> int | None:
    if isinstance(batches, feeding.ImageBatches):
        return len(batches.split)
    return None
