"""The data sets that are known by name: their sources, their sizes, and how a network is trained on each.

Nothing here imports torch, so that the command line can show its help at once.
"""

from dataclasses import dataclass

VALIDATION_SHARE = 0.1
"""The share of the training images that chooses the best epoch, by default."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The schedule of training on a data set; the learning rate is divided at half and three quarters of the epochs."""

    stages: int
    epochs: int
    lr: float
    lr_divisor: float
    batch_size: int = 128
    augment: bool = False


@dataclass(frozen=True, kw_only=True)
class Images:
    """The numbers and the size of images."""

    training: int
    """Images that are not for testing, those for validation included."""
    test: int
    size: int
    """Height and width in pixels."""
    channels: int = 1
    classes: int = 10


@dataclass(frozen=True, kw_only=True)
class KnownData:
    """One data set: where it comes from, how large it is, and its recipe."""

    title: str
    """The name in figures."""
    recipe: Recipe
    images: Images
    hub: str | None = None
    """The name on the Hugging Face hub, if it is there."""
    clutter: int | None = None
    """Digits in each image, if it is a Digitclutter data set, which iterconv makes by itself."""

    @property
    def epoch_cost(self) -> float:
        """The cost of a training epoch of the same network, as a multiple of that for the digits."""
        digits = KNOWN["digits"].images
        return self.images.training * self.images.size**2 / (digits.training * digits.size**2)


KNOWN = {
    "digits": KnownData(
        title="UCI digits",
        recipe=Recipe(stages=1, epochs=30, lr=0.1, lr_divisor=10.0, batch_size=32),
        images=Images(training=1438, test=359, size=8),
    ),
    "mnist": KnownData(
        title="MNIST",
        recipe=Recipe(stages=1, epochs=400, lr=0.025, lr_divisor=2.5),
        images=Images(training=60_000, test=10_000, size=28),
        hub="ylecun/mnist",
    ),
    "cifar10": KnownData(
        title="CIFAR-10",
        recipe=Recipe(stages=3, epochs=400, lr=0.1, lr_divisor=10.0, augment=True),
        images=Images(training=50_000, test=10_000, size=32, channels=3),
        hub="uoft-cs/cifar10",
    ),
    "cifar100": KnownData(
        title="CIFAR-100",
        recipe=Recipe(stages=3, epochs=200, lr=0.1, lr_divisor=10.0, augment=True),
        images=Images(training=50_000, test=10_000, size=32, channels=3, classes=100),
        hub="uoft-cs/cifar100",
    ),
    **{
        f"digitclutter-{digits}": KnownData(
            title=f"Digitclutter-{digits}",
            recipe=Recipe(stages=3, epochs=400, lr=0.05, lr_divisor=5.0),
            images=Images(training=100_000, test=10_000, size=32),
            clutter=digits,
        )
        for digits in (3, 4, 5)
    },
}
"""Every data set by its name; a new one on the hub is one more entry here.

Source: Lippl et al., Sec. A.4 and F. Departure: of the two schedules that the text gives Digitclutter, this is the one
with 400 epochs; the other is CIFAR-100's: epochs 200, lr 0.1, lr_divisor 10. Choice: batch 128 and the CIFAR
augmentation; ``digits`` (the UCI digits within scikit-learn, which have no test split of their own) is ours throughout.
"""

OTHER_DATA = Recipe(stages=3, epochs=200, lr=0.1, lr_divisor=10.0)
"""The recipe of data that are not known by name."""


def recipe_of(data: str) -> Recipe:
    """The recipe of a data set, known by name or not."""
    return KNOWN[data].recipe if data in KNOWN else OTHER_DATA
