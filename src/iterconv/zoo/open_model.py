"""Models by name: a run's folder, ``timm:NAME``, ``hf:PATH``, ``cifar-resnet:PATH``, ``module:function``."""

import importlib
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from iterconv import data
from iterconv.adapters.staged import adapt_on_few
from iterconv.errors import InputError, check_count, describe_error
from iterconv.paths.contract import is_staged
from iterconv.tasks.batches import inputs_of
from iterconv.tasks.tokens import is_causal
from iterconv.training.config import RunConfig
from iterconv.training.network import make_network
from iterconv.training.run import load_data, open_run
from iterconv.zoo.cifar_resnets import open_cifar_resnet
from iterconv.zoo.common import Opened, choose_reference, to_device
from iterconv.zoo.hugging_face import open_hugging_face
from iterconv.zoo.inputs import ImageBatches
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.smaller import Origin, read_origin, shrink
from iterconv.zoo.timm_models import open_timm


@dataclass(frozen=True, eq=False, kw_only=True)
class OpenedModel(Opened):
    """A model that satisfies the contract, with its batches and what the command line tells about it."""

    place: Path
    """The folder for files about it: a run's own folder, else the current one."""
    file_stem: str
    """The beginning of the names of these files; empty in a run's folder."""
    examples: int | None
    """The number of examples; None if it is unknown."""
    origin: Origin
    """The origin of the model, which opens it again."""
    batch_size: int | None
    """The batch size that the user chose; None for batches that came with the model."""

    def file_for(self, name: str) -> Path:
        """Return the file of this name about the model; outside a run's folder, it begins with the model's name."""
        return self.place / f"{self.file_stem}-{name}".removeprefix("-")


KINDS: dict[str, Callable[[str, ModelOptions], Opened]] = {
    "timm": open_timm,
    "hf": open_hugging_face,
    "cifar-resnet": open_cifar_resnet,
}
"""The functions that open models by name: ``KIND:NAME`` calls that of ``KIND`` with the name and the user's options."""


_OWN = frozenset(KINDS)

KNOWN = "the folder of a run, timm:NAME, hf:PATH, cifar-resnet:PATH or module:function"
"""The models that can be named."""


def register(kind: str, opener: Callable[[str, ModelOptions], Opened]) -> None:
    """Let the command line open models as ``KIND:NAME``.

    Args:
        kind: The word before the colon.
        opener: A function of the name and the options that returns the model and its batches.

    Raises:
        InputError: If the kind is registered already.
    """
    if kind in _OWN:
        raise InputError(f"models of the kind {kind!r} are iterconv's own; choose another word")
    KINDS[kind] = opener


def is_function(name: str) -> bool:
    """Return True for ``module:function``, a model that a user's own code makes."""
    return ":" in name and name.split(":", 1)[0] not in KINDS and not Path(name).exists()


def open_model(name: str, options: ModelOptions) -> OpenedModel:
    """Open a model and the data on which it is to be measured.

    Args:
        name: A run's folder, ``timm:NAME``, ``hf:PATH``, ``cifar-resnet:PATH``, ``module:function`` (whose code is
            run), or a file that ``iterconv plan --save`` wrote.
        options: The user's options.

    Returns:
        The model with its batches.

    Raises:
        InputError: If the model, weights, data or device don't exist or don't fit, or if an option is out of range.
    """
    for field in ("examples", "batch_size"):
        check_count(field, getattr(options, field), why="is too few")
    origin, stem = read_origin(Path(name)), _slug(name)
    # A file must not decide which code is run, so the user has to name the function.
    if origin and origin.code:
        remedy = f"pass {shlex.join([origin.code, '--weights', name])}"
        raise InputError(f"{name} was made of {origin.code}, whose code is only run when you name it: {remedy}")
    if origin and isinstance(origin.model, str):
        return _open_foreign(origin.model, replace(options, weights=name), stem)
    if origin is None and name.endswith(".safetensors") and name.split(":", 1)[0] not in KINDS:
        raise InputError(
            f"{name} is not a file that `iterconv plan --save` wrote; pass one, or the model itself, as in "
            f"cifar-resnet:{name} or timm:NAME --weights {name}"
        )
    if origin or ":" not in name or Path(name).exists():
        return _open_run(Path(name), origin, options)
    return _open_foreign(name, options, stem)


def _open_foreign(name: str, options: ModelOptions, stem: str) -> OpenedModel:
    """Open ``KIND:NAME`` or ``module:function``, and adapt the model to its batches."""
    kind, rest = name.split(":", 1)
    own = kind not in KINDS  # a model that the user's own code makes
    smaller = _find_smaller(name, options) if own else None
    found = _open_function(name, options) if own else KINDS[kind](rest, options)
    model, note = to_device(found.model, options), found.note
    first = next(iter(found.batches), None)
    if first is None:
        raise InputError(f"{name} comes with no batches; pass --data, or return some")
    if smaller:
        model = to_device(shrink(model, inputs_of(first, model), smaller, Path(options.weights)), options)
    if is_staged(model):
        if options.stages:
            raise InputError(f"--stages {options.stages[0]} is for models without stages of their own")
        staged = model
    else:
        staged = adapt_on_few(model, inputs_of(first, model), stages=list(options.stages) or None, task=found.task)
        note = f"{note}\n{staged!r}"
    return OpenedModel(
        staged,
        found.batches,
        found.against,
        note,
        place=Path(),
        file_stem=stem,
        examples=len(found.batches.split) if isinstance(found.batches, ImageBatches) else None,
        origin=read_origin(Path(options.weights)) or Origin(model=name),
        batch_size=None if own and options.data is None else options.batch_size,
    )


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name.removeprefix("hf:").removesuffix(".safetensors")).strip("-.")


def _find_smaller(name: str, options: ModelOptions) -> Origin | None:
    """Read the origin of the smaller model whose weights a user names with a function; None without weights."""
    if options.weights == "pretrained":
        return None
    origin = read_origin(Path(options.weights))
    if origin is None or origin.code != name:
        raise InputError(
            f"--weights {options.weights} is not for {name}: no smaller model of it is there; "
            "let the function load its weights"
        )
    return origin


def _open_run(path: Path, origin: Origin | None, options: ModelOptions) -> OpenedModel:
    """Open a run in its folder, or a smaller model that was made of one."""
    if not path.is_dir() and not origin:
        raise InputError(f"there is no run {path}; pass {KNOWN}")
    foreign = ("data", "weights", "stages", "precision", "examples")
    own = replace(options, precision="single") if options.precision == "bf16" else options  # it changes no weights
    given = [field for field in foreign if getattr(own, field) != getattr(ModelOptions(), field)]
    if given:
        raise InputError(f"--{given[0]} is for foreign models (timm:NAME, hf:PATH, ...); {path} is a run")
    if origin and isinstance(origin.model, dict):
        config = RunConfig.from_dict(origin.model)
        dataset = load_data(config, options.device)
        network: Any = shrink(make_network(config, dataset), None, origin, path).to(dataset.train.images.device)
        place, stem = path.parent, path.stem
    else:
        network, dataset, folder = open_run(path, options.device)
        origin, place, stem = Origin(model=folder.config.to_dict()), path, ""
    batches = dataset.batches(dataset.test, options.batch_size)
    return OpenedModel(
        network,
        batches,
        "labels",
        f"{dataset.name}, test split",
        place=place,
        file_stem=stem,
        examples=len(dataset.test),
        origin=origin,
        batch_size=options.batch_size,
    )


def _open_function(name: str, options: ModelOptions) -> Opened:
    """Call a user's function for a model and, unless ``--data`` is given, for its batches."""
    made = _call_function(name)
    model, batches = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"{name}() returned {type(model).__name__}, no torch module; let it return one, or (module, batches)"
        )
    if options.data is None:
        if batches is None:
            raise InputError(f"{name}() returned a model alone; pass --data NAME, or let it return (model, batches)")
        batches = batches if isinstance(batches, (list, ImageBatches)) else list(batches)
        labelled = all(isinstance(batch, (tuple, list)) and len(batch) == 2 for batch in batches)
        labelled = labelled or all(isinstance(batch, dict) and "labels" in batch for batch in batches)
        labelled = labelled or is_causal(model)  # the labels are the next tokens
        return Opened(model, batches, "labels" if labelled else "predictions", f"{type(model).__name__}, own batches")
    loaded = data.load(options.data, evaluation_samples=options.examples)
    found = loaded.batches(loaded.test, options.batch_size)
    return choose_reference(model, found, loaded.classes, None, options)


def _call_function(name: str) -> Any:
    """Import the module of ``module:function``, and call the function; whatever goes wrong becomes one line."""
    module, function = name.rsplit(":", 1)
    # The module is a file of the user's, and an installed command does not search the current folder by itself.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        imported = importlib.import_module(module)
    except ModuleNotFoundError as problem:
        raise InputError(f"{name}: there is no module {problem.name!r}; pass {KNOWN}") from None
    except (Exception, SystemExit) as problem:  # noqa: BLE001 - a user's own code, or no module's name at all
        raise InputError(f"{name}: importing {module!r} raised {describe_error(problem)}; pass {KNOWN}") from None
    made = getattr(imported, function, None)
    if not callable(made):
        raise InputError(f"{name}: the module {module!r} has no function {function!r}")
    try:
        return made()
    except (Exception, SystemExit) as problem:  # noqa: BLE001 - a user's own code
        raise InputError(f"{name}() raised {describe_error(problem)}") from None
