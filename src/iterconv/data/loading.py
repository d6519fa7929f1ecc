"""``load``: find a source, split it with a seed, put it on a device."""

import os

import torch
from jaxtyping import Float

from iterconv.data.dataset import Data, Images, Split
from iterconv.data.known import VALIDATION_SHARE
from iterconv.data.sources import Source, find
from iterconv.data.splits import choose_balanced, choose_stratified
from iterconv.errors import InputError, check_count, check_range, shown

TEST_SHARE = 0.2
"""The share of all images that is for testing, if the source has no test split."""

Channels = Float[torch.Tensor, " channels"]


def load(
    name: str | os.PathLike[str],
    *,
    samples: int | None = None,
    evaluation_samples: int | None = None,
    validation: float = VALIDATION_SHARE,
    split_seed: int = 0,
    device: str | torch.device = "cpu",
    image_column: str | None = None,
    label_column: str | None = None,
) -> Data:
    """Load a data set as tensors on a device.

    Decoded images are kept under ``$ITERCONV_CACHE`` or ``~/.cache/iterconv``. The digits' grey levels 0..16
    are multiplied by 255/16 and rounded, which keeps all 17 apart.

    Source: Lippl et al., Sec. A.4. Choice: validation is a tenth of the training images, with the classes'
    shares kept; a source without a test split first gives a fifth of its images as one. The splits depend on
    ``split_seed`` alone, so that all networks see the same.

    Args:
        name: A name of ``iterconv.data.known.KNOWN`` (``"digits"`` is inside scikit-learn, Digitclutter is made on
            first use, in a minute, the others come from ``$ITERCONV_DATA/<name>`` where that is a folder, else from
            the Hugging Face hub); a folder (in the hub's Parquet layout, or images in one folder per class, below
            train/ and test/ if need be); a Parquet file; a file that ``iterconv data digitclutter`` wrote; or a hub
            name ``owner/name``. Parquet files may name local files and addresses of the web as images, which are
            then opened.
        samples: Train on this many images only, equally many of each class.
        evaluation_samples: Validate and test on this many images each, at most, with the classes' shares kept.
        validation: Share of the training images, in [0, 1).
        split_seed: The seed of the splits, of ``samples`` and of ``evaluation_samples``.
        device: A torch device.
        image_column: ``image`` or ``img`` by default.
        label_column: ``label``, ``fine_label`` or ``labels`` by default.

    Returns:
        The data.

    Raises:
        InputError: If the name is unknown, the hub out of reach, a file corrupt or empty, a column missing, the
            images are of unequal size or not of 8 bits, or would take more than a quarter of the free memory, labels
            are not 0..classes-1, there are too few images, the device is not there or an option is out of range.
    """
    if not isinstance(name, (str, os.PathLike)):
        raise InputError(f"the data set {shown(name)} is not a name; pass 'digits', a path or a hub name")
    validation = check_range("validation", validation, "[0, 1)", "it is a share of the training images")
    split_seed = check_count("split_seed", split_seed, 0)
    if samples is not None:
        samples = check_count("samples", samples)
    if evaluation_samples is not None:
        evaluation_samples = check_count("evaluation_samples", evaluation_samples, why="leaves nothing to test on")
    _check_device(device)
    source = find(os.fspath(name), (image_column, label_column))
    train, held_out, test = _split(source, validation, split_seed)
    if samples is not None:
        train = train[choose_balanced(train.targets, samples, source.classes, split_seed)]
    if evaluation_samples is not None:
        held_out, test = (_fewer(split, evaluation_samples, split_seed) for split in (held_out, test))
    if len(train) == 0:
        raise InputError(f"validation={validation} leaves no image of {name} to train on; use a smaller share")
    mean, std = _statistics(train.images)
    return Data(
        name=os.fspath(name),
        train=train.to(device),
        validation=held_out.to(device),
        test=test.to(device),
        classes=source.classes,
        mean=mean.to(device),
        std=std.to(device),
    )


def _fewer(split: Split, count: int, seed: int) -> Split:
    return split[choose_stratified(split.targets, min(count, len(split)), seed)[0]]


def _check_device(device: str | torch.device) -> None:
    try:
        there = torch.empty(0, device=device).device.type != "meta"  # which holds no data
    except (RuntimeError, AssertionError, TypeError):
        there = False
    if not there:
        raise InputError(f"device {shown(str(device))} is not there; use 'cpu'") from None


def _split(source: Source, validation: float, seed: int) -> tuple[Split, Split, Split]:
    train, test = source.train, source.test
    if test is None:
        chosen, others = choose_stratified(train.targets, round(TEST_SHARE * len(train)), seed)
        train, test = train[others], train[chosen]
    # Another seed than for the test split, so that the two choices have nothing to do with each other.
    chosen, others = choose_stratified(train.targets, round(validation * len(train)), seed + 1)
    return train[others], train[chosen], test


def _statistics(images: Images) -> tuple[Channels, Channels]:
    """Compute exact mean and standard deviation of each channel, 0..1; a constant channel is left unscaled."""
    # Counts of grey levels are exact, and need no copy of the images in floating point.
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    values = torch.arange(256, dtype=torch.float64) / 255
    weights = counts.double() / counts.sum(1, keepdim=True)
    mean = weights @ values
    std = (weights * (values - mean[:, None]) ** 2).sum(1).sqrt()
    return mean.float(), torch.where(std > 1e-6, std, 1).float()
