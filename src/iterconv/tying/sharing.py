"""``sharing``: an audit of which parameters are really shared, and whether all of their applications train them."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from iterconv.adapters.adapt import AdaptedModel
from iterconv.adapters.calls import call, name_arguments, switch_off_caches
from iterconv.errors import InputError
from iterconv.paths import rejections_in_a_line, untouched
from iterconv.tasks import Task, Tokens, task_of
from iterconv.tasks.base import logits
from iterconv.tasks.batches import check_inputs, match_model, split_batch
from iterconv.tasks.tokens import is_causal
from iterconv.tying.fitting import rows_loss

COLUMNS = (
    "names", "places", "shared_storage", "applications", "gradient_shares", "without_gradient", "verdict",
)  # fmt: skip


def sharing(model: nn.Module, batches: Iterable[Any], *, task: Task | None = None) -> pd.DataFrame:
    """Tell which parameters are shared when the model runs, and whether the gradient of each application reaches them.

    Weight sharing is easily lost without notice: by a copy of a block, or by a file that is loaded into two places. The
    values are still equal then, until the first training step. And an application whose result is detached does not
    train the parameters that it uses.

    During a pass, each call of a module gets parameters of its own that stand for the real ones, so the gradient of the
    loss is known for each application. A module that is never called, since others read its parameters, counts as
    applied with the module around it. Uses of a parameter outside of its module's calls, such as an output layer
    that reads the matrix of an embedding, are one further application of it.

    Args:
        model: Any module; it is left exactly as it was. It runs in evaluation mode.
        batches: The batches as for ``iterconv.measure``. The loss is the task's, or the mean square of the outputs
            where a batch has no targets.
        task: The meaning of the model's outputs; by default next tokens for causal language models, and for all others
            classes or label sets, which the targets tell.

    Returns:
        One row for each group of parameters that have one storage or equal values: ``names`` (all of them),
        ``places`` (their number), ``shared_storage`` (True if several places or applications use one storage),
        ``applications`` (most of a batch), ``gradient_shares`` (the norm of each application's gradient over the sum
        of these norms, added up over the batches, in the order of the calls), ``without_gradient`` (the number of
        applications that no gradient reaches), and ``verdict``: ``"lost"`` if parameters have equal values, but in
        different storages, so that a training step pulls them apart; ``"shared"`` if one storage is used several times;
        else ``"separate"``. Equal constants, such as the zeros of new biases, only count as lost within modules that
        are equal in all parameters. Blocks that start equal, and that ``iterconv.couple`` keeps equal, are called lost.

    Raises:
        InputError: If there are no batches or parameters, or if the model rejects a batch.
    """
    if not isinstance(model, nn.Module):
        raise InputError(f"{type(model).__name__} is not a torch.nn.Module; pass the model itself")
    if isinstance(model, AdaptedModel):
        task, model = task or model.task, model.model
    groups = _find_groups(model)
    if not groups:
        raise InputError(f"{type(model).__name__} has no parameters that could be shared")
    owners = {name: group for group in groups for name in group.names}
    count = 0
    for number, batch in enumerate(batches):
        inputs, targets = split_batch(batch)
        check_inputs(inputs, number)
        inputs, targets = match_model(inputs, model), match_model(targets, model)
        with untouched(model), rejections_in_a_line(model), switch_off_caches(model):
            _audit(model, inputs, targets, task, owners)
        count += 1
    if not count:
        raise InputError("there are no batches to run the model on; pass an iterable of (inputs, targets)")
    return pd.DataFrame([group.row() for group in groups], columns=list(COLUMNS))


@dataclass(eq=False)
class _Group:
    """Parameters of one storage, or of equal values."""

    names: tuple[str, ...]
    storages: int
    norms: list[float] = field(default_factory=list)
    """The norm of the gradient of each application, added up over the batches."""

    def add(self, norms: list[float]) -> None:
        longer = max(len(norms), len(self.norms))
        padded = [[*values, *[0.0] * (longer - len(values))] for values in (self.norms, norms)]
        self.norms = [a + b for a, b in zip(*padded, strict=True)]

    def row(self) -> tuple[Any, ...]:
        total, count = sum(self.norms), len(self.norms)
        several = len(self.names) > 1 or count > 1
        verdict = "lost" if self.storages > 1 else "shared" if several else "separate"
        shares = tuple(norm / total if total else 0.0 for norm in self.norms)
        missing = sum(norm == 0 for norm in self.norms)
        return self.names, len(self.names), verdict == "shared", count, shares, missing, verdict


def _find_groups(model: nn.Module) -> list[_Group]:
    """Group the names of all parameters by their storages and values, in the order of the model."""
    named = {name: p for name, p in model.named_parameters(remove_duplicate=False) if not p.is_meta and p.numel()}
    digests = {name: _digest(parameter) for name, parameter in named.items()}
    varied = {name for name, p in named.items() if bool((p.detach() != p.detach().flatten()[0]).any())}
    together: dict[Any, list[str]] = defaultdict(list)
    for name, parameter in named.items():
        together[_storage(parameter)].append(name)
        # Constants are equal by chance, unless all of the modules that hold them are.
        if name in varied:
            together[digests[name]].append(name)
    alike: dict[Any, list[str]] = defaultdict(list)
    for prefix in {name[: dot + 1] for name in named for dot, letter in enumerate(name) if letter == "."}:
        own = {name.removeprefix(prefix): digests[name] for name in named if name.startswith(prefix)}
        if any(prefix + rest in varied for rest in own):
            alike[tuple(own.items())].append(prefix)
    for own, prefixes in alike.items():
        for rest, _ in own:
            together[own, rest] += [prefix + rest for prefix in prefixes]
    return [
        _Group(tuple(names), len({_storage(named[name]) for name in names}))
        for names in _join(list(named), together.values())
    ]


def _join(names: list[str], together: Iterable[list[str]]) -> list[list[str]]:
    """Join names that stand together in some list, directly or by way of others; returns all, in their order."""
    sets: dict[str, list[str]] = {name: [name] for name in names}
    for first, *others in together:
        for other in others:
            if sets[other] is not sets[first]:
                sets[first] += sets[other]
                sets.update(dict.fromkeys(sets[other], sets[first]))
    unique = {id(group): sorted(group, key=names.index) for group in sets.values()}
    return sorted(unique.values(), key=lambda group: names.index(group[0]))


def _storage(parameter: Tensor) -> tuple[Any, ...]:
    return str(parameter.device), parameter.data_ptr(), parameter.numel()


def _digest(parameter: Tensor) -> tuple[Any, ...]:
    contents = parameter.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
    return tuple(parameter.shape), parameter.dtype, hashlib.sha256(contents).digest()


def _audit(model: nn.Module, inputs: Any, targets: Any, task: Task | None, owners: Mapping[str, _Group]) -> None:
    """Run one batch, and add the norms of all applications' gradients to the groups."""
    with _stand_ins(model, _find_slots(model, inputs, owners)) as applications, torch.enable_grad():
        loss = _loss(model, call(model, inputs), inputs, targets, task)
    # Uses outside of the calls of modules reach the real parameters.
    real = {id(p): (owners[name], p) for name, p in model.named_parameters(remove_duplicate=False) if name in owners}
    used = [*applications, *((group, parameter, False) for group, parameter in real.values())]
    wanted = [tensor for _, tensor, _ in used if tensor.requires_grad]
    found = torch.autograd.grad(loss, wanted, allow_unused=True) if loss.requires_grad else [None] * len(wanted)
    gradients = {id(tensor): gradient for tensor, gradient in zip(wanted, found, strict=True)}
    norms: dict[_Group, list[float]] = defaultdict(list)
    for group, tensor, certain in used:
        gradient = gradients.get(id(tensor))
        if certain or gradient is not None:
            norms[group].append(0.0 if gradient is None else float(gradient.norm()))
    for group, own in norms.items():
        group.add(own)


def _loss(model: nn.Module, made: Any, inputs: Any, targets: Any, task: Task | None) -> Tensor:
    task = task or (Tokens() if is_causal(model) else None)
    if task is None and targets is None:
        return logits(made).float().square().mean()
    task, named = task or task_of(targets), name_arguments(model, inputs)
    return rows_loss(task, task.outputs(made, named), task.targets(targets, named), 0)


_Slot = tuple[nn.Module, str, _Group, bool]
"""A module and the name of its parameter, the group of the parameter, and True if a call of the module is a use."""


def _find_slots(model: nn.Module, inputs: Any, owners: Mapping[str, _Group]) -> dict[nn.Module, list[_Slot]]:
    """List the parameters that a call of each module uses: its own, and those of modules in it that are not called."""
    called: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda module, _: called.add(module)) for module in model.modules()]
    try:
        call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
    slots: dict[nn.Module, list[_Slot]] = defaultdict(list)
    modules = dict(model.named_modules())
    for path, module in modules.items():
        around = path
        while modules[around] not in called:
            around = around.rpartition(".")[0]
        for name in module._parameters:
            group = owners.get(f"{path}.{name}".removeprefix("."))
            if group is not None:
                slots[modules[around]].append((module, name, group, around == path))
    return slots


@contextmanager
def _stand_ins(
    model: nn.Module, slots: Mapping[nn.Module, list[_Slot]]
) -> Iterator[list[tuple[_Group, nn.Parameter, bool]]]:
    """Let each call of a module inside use parameters of its own, which have the storage of the real ones.

    Yields:
        The list of these parameters in the order of the calls, each with its group and True if it is certainly used.
    """
    applications: list[tuple[_Group, nn.Parameter, bool]] = []
    replaced: dict[nn.Module, list[list[tuple[nn.Module, str, Any]]]] = defaultdict(list)

    def enter(module: nn.Module, args: Any) -> None:
        replaced[module].append([(holder, name, getattr(holder, name)) for holder, name, *_ in slots[module]])
        for holder, name, group, certain in slots[module]:
            parameter = getattr(holder, name)
            own = nn.Parameter(parameter.detach(), parameter.requires_grad)
            applications.append((group, own, certain))
            setattr(holder, name, own)

    def leave(module: nn.Module, *_: Any) -> None:
        for holder, name, parameter in replaced[module].pop():
            setattr(holder, name, parameter)

    real = [(holder, name, getattr(holder, name)) for own in slots.values() for holder, name, *_ in own]
    handles: list[Any] = []
    for module in slots:
        # Before and after all other hooks, which may make a weight of the parameters.
        handles.append(module.register_forward_pre_hook(enter, prepend=True))
        handles.append(module.register_forward_hook(leave, always_call=True))
    try:
        yield applications
    finally:
        for handle in handles:
            handle.remove()
        for holder, name, parameter in real:
            setattr(holder, name, parameter)
