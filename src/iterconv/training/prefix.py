"""Training of nets for prefix sums: whole passes, or the progressive loss of Bansal et al. (2022)."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from iterconv import files
from iterconv.coupling import couple
from iterconv.errors import InputError, check_choice, check_count, check_range
from iterconv.models.prefix import draw_strings, prefix_network
from iterconv.options import Init
from iterconv.paths.contract import StagedModel
from iterconv.training.allocator import keep_freed_memory
from iterconv.training.loop import Stop

REPORTED = 100
"""Steps between two reports of progress."""
SAVED = 500
"""Steps between two checkpoints."""
CLIP = 1.0
"""The largest norm of all gradients together."""


@dataclass(frozen=True, kw_only=True)
class PrefixConfig:
    """One net for prefix sums: how it is built and trained."""

    init: Init = "recurrent"
    """The blocks' weights at the start: equal (recurrent), or each their own (independent)."""
    coupling: float = 1.0
    """Strength of the soft gradient coupling of the blocks."""
    recall: bool = True
    """Whether each block is handed the string."""
    progressive: bool = True
    """Whether the loss is the progressive one."""
    norm: bool = True
    """Whether each block divides the state by its root mean square."""
    seed: int = 0
    """Initial weights and strings are drawn from it."""
    width: int = 24
    """Channels of the state."""
    blocks: int = 16
    """Blocks, and so the largest number of iterations in training."""
    bits: int = 24
    """The length of the strings of training."""
    steps: int = 3000
    """Optimizer steps; in the second half, the learning rate falls linearly to 0."""
    batch_size: int = 64
    """Fresh strings a step."""
    lr: float = 2e-3
    """Adam's learning rate at the start."""
    lengths: tuple[int, ...] = (24, 32, 64, 128, 256, 512)
    """The lengths of the strings of the test, in rising order."""
    strings: int = 200
    """Strings of each length."""
    iterations: int = 400
    """The largest number of iterations in the test."""

    def __post_init__(self) -> None:
        """Check the fields."""
        check_choice("init", self.init, Init)
        check_range("coupling", self.coupling, "[0, 1]", "0 is no coupling, 1 ties the weights")
        check_range("lr", self.lr, "(0, 1]", "the default is 0.002")
        for name in ("blocks", "bits", "steps", "batch_size", "strings", "iterations"):
            check_count(name, getattr(self, name))
        check_count("width", self.width, 2)

    @property
    def lacks(self) -> str:
        """The ingredients of the recipe that this net goes without; ``"nothing"`` for the full recipe."""
        missing = [name for name in INGREDIENTS if not getattr(self, name)]
        return " and ".join(missing) or "nothing"

    @cached_property
    def name(self) -> str:
        """The name of the net and of its folder."""
        digest = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:8]
        kind = "-".join(["prefix", *(f"no-{name}" for name in INGREDIENTS if not getattr(self, name))])
        return f"{kind}-{self.init[:3]}-c{self.coupling:g}-seed{self.seed}-{digest}"


INGREDIENTS = ("norm", "progressive", "recall")
"""The fields of `PrefixConfig` that are the recipe."""


def make_prefix_network(config: PrefixConfig) -> StagedModel:
    """Make the untrained net of a configuration; torch's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return prefix_network(config.width, config.blocks, recall=config.recall, norm=config.norm, init=config.init)


def logits_after(network: StagedModel, inputs: Tensor, skipped: int, learnt: int) -> Tensor:
    """Read a net out after ``skipped + learnt`` blocks, of which only the latter pass gradients on.

    Source: Bansal et al. (2022), Sec. 4, for one tied block. Choice: in an untied net the blocks are the first ones in
    order, so that block t only ever sees states that t - 1 blocks have made; the others get no gradient.

    Args:
        network: A net of one stage.
        inputs: The strings.
        skipped: The number of blocks that run without gradients.
        learnt: The number of blocks after them.

    Returns:
        The logits.
    """
    stage = network.stages[0]
    with torch.set_grad_enabled(not skipped):
        z = start = network.stem(inputs)
        for index in range(skipped):
            z = stage.step(index, z, start)
    for index in range(skipped, skipped + learnt):
        z = stage.step(index, z, start)
    return network.head(z)


def draw_depths(blocks: int, generator: torch.Generator) -> tuple[int, int]:
    """Draw the depths of a progressive step: n uniform in 0..blocks - 1, then k uniform in 1..blocks - n."""
    skipped = int(torch.randint(0, blocks, (), generator=generator))
    return skipped, int(torch.randint(1, blocks - skipped + 1, (), generator=generator))


class PrefixTrainer:
    """A net in training, with all of the state that a checkpoint has to hold.

    Choice: Adam, whole gradients clipped at ``CLIP`` before they are coupled. Blocks that a progressive step does not
    reach have a gradient of zero, so that the coupling can hand them that of the others.

    Args:
        config: The net.
    """

    def __init__(self, config: PrefixConfig) -> None:
        self.config, self.step = config, 0
        self.network = make_prefix_network(config)
        self.generator = torch.Generator().manual_seed(config.seed)
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.Adam(self.parameters, lr=config.lr, foreach=True)
        groups = self.network.coupling_groups() if config.coupling else []
        couple(self.optimizer, groups, config.coupling)

    def advance(self) -> float:
        """Take one step; return the loss."""
        inputs, sums = draw_strings(self.config.batch_size, self.config.bits, self.generator)
        depths = (0, self.config.blocks)
        if self.config.progressive:
            depths = draw_depths(self.config.blocks, self.generator)
        logits = logits_after(self.network, inputs, *depths)
        loss = F.binary_cross_entropy_with_logits(logits, sums.float())
        self.optimizer.param_groups[0]["lr"] = self.config.lr * min(1.0, 2 * (1 - self.step / self.config.steps))
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        torch.nn.utils.clip_grad_norm_(self.parameters, CLIP, foreach=True)
        self.optimizer.step()
        self.step += 1
        return loss.item()

    def state(self) -> dict[str, Tensor]:
        """Everything that training depends on, by name."""
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for number, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{name}": value for name, value in moments.items()}
        return {**tensors, "step": torch.tensor(self.step), "generator": self.generator.get_state()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Go on from what ``state`` returned.

        Raises:
            KeyError: If something is missing; ``RuntimeError`` or ``ValueError`` if it is of another net.
        """
        self.step = int(tensors["step"])
        self.generator.set_state(tensors["generator"])
        own = {name: tensors[f"network.{name}"] for name in self.network.state_dict()}
        self.network.load_state_dict(own)
        names = ("step", "exp_avg", "exp_avg_sq")
        numbers = range(len(self.parameters))
        state = {number: {name: tensors[f"optimizer.{number}.{name}"] for name in names} for number in numbers}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})


def train_prefix(
    config: PrefixConfig, checkpoint: Path, on_progress: Callable[[str, int], None], stop: Stop
) -> StagedModel:
    """Train a net, or go on from its checkpoint; both end with the same bytes.

    Args:
        config: The net.
        checkpoint: The file in which the state is saved now and then; the caller removes it in the end.
        on_progress: Called every ``REPORTED`` steps with a few words and with the number of calls so far.
        stop: Asks to save the state and to stop.

    Returns:
        The net.

    Raises:
        InputError: If the checkpoint is damaged.
        KeyboardInterrupt: If it was asked to stop; the state is saved by then.
    """
    keep_freed_memory()
    trainer = PrefixTrainer(config)
    _restore(trainer, checkpoint)
    losses: list[float] = []
    while trainer.step < config.steps:
        losses.append(trainer.advance())
        if stop.is_set() or trainer.step % SAVED == 0:
            files.write_atomically(checkpoint, files.to_safetensors(trainer.state()))
        if stop.is_set():
            raise KeyboardInterrupt
        if trainer.step % REPORTED == 0:
            recent = losses[-REPORTED:]
            on_progress(f"step {trainer.step} of {config.steps}, loss {sum(recent) / len(recent):.4f}", trainer.step)
    return trainer.network


def _restore(trainer: PrefixTrainer, checkpoint: Path) -> None:
    if not checkpoint.is_file():
        return
    try:
        trainer.restore(files.read_tensors(checkpoint, again=files.AGAIN))
    except (KeyError, RuntimeError, ValueError, TypeError):
        raise InputError(f"{checkpoint} is of another net; delete it and {files.AGAIN}") from None
