"""Seeded splits that keep the classes' shares."""

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from iterconv.errors import OptionError


def choose_stratified(
    targets: Shaped[Tensor, "n *classes"], count: int, seed: int
) -> tuple[Int[Tensor, " chosen"], Int[Tensor, " others"]]:
    """Choose rows so that each class has its share, by largest remainders.

    Args:
        targets: Class numbers; of rows with several labels the choice is plainly random.
        count: The number of rows to choose, from 0 to n.
        seed: The seed that alone decides on the choice.

    Returns:
        The chosen rows and the others, both in ascending order.
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(targets), generator=generator)
    if targets.ndim == 2:
        return shuffled[:count].sort().values, shuffled[count:].sort().values
    sizes = torch.bincount(targets)
    shares = sizes.double() * count / max(len(targets), 1)
    quotas = shares.floor().long()
    # The rows that rounding down has left over go to the classes that lost most.
    short = torch.argsort(shares - quotas, descending=True, stable=True)[: count - int(quotas.sum())]
    quotas[short] += 1
    chosen = torch.zeros(len(targets), dtype=torch.bool)
    for label, quota in enumerate(quotas.tolist()):
        chosen[shuffled[targets[shuffled] == label][:quota]] = True
    return chosen.nonzero().flatten(), (~chosen).nonzero().flatten()


def choose_balanced(
    targets: Shaped[Tensor, "n *classes"], count: int, classes: int, seed: int
) -> Int[Tensor, " chosen"]:
    """Choose equally many rows of each class (one more of the first ones where it doesn't divide).

    Args:
        targets: Class numbers; of rows with several labels the choice is plainly random.
        count: The number of rows in all.
        classes: The number of classes.
        seed: The seed that alone decides on the choice.

    Returns:
        The chosen rows in ascending order.

    Raises:
        InputError: If there are fewer samples than classes, or not enough of a class.
    """
    if count < classes:
        raise OptionError("samples", count, f"is less than one for each of {classes} classes; use {classes} or more")
    if count > len(targets):
        raise OptionError("samples", count, f"is more than the {len(targets)} training samples there are; use fewer")
    shuffled = torch.randperm(len(targets), generator=torch.Generator().manual_seed(seed))
    if targets.ndim == 2:
        return shuffled[:count].sort().values
    chosen = []
    for label in range(classes):
        quota = count // classes + (label < count % classes)
        rows = shuffled[targets[shuffled] == label][:quota]
        if len(rows) < quota:
            raise OptionError(
                "samples", count, f"needs {quota} samples of class {label}, there are {len(rows)}; use fewer"
            )
        chosen.append(rows)
    return torch.cat(chosen).sort().values
