"""``cifar_resnet``: He et al.'s ResNets for CIFAR-10, whose trained weights others have published."""

import re
from pathlib import Path
from typing import no_type_check

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from iterconv.errors import InputError, check_count, check_memory, line_of, require
from iterconv.paths.contract import Stage, StagedModel

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""The mean and standard deviation of red, green and blue, from 0 to 1, by which the published networks' images are
standardised. They are those of ImageNet, although the images are CIFAR-10's."""
SIZE = (32, 32)
"""The height and width of their images."""
WIDTHS = (16, 32, 64)
"""The channels of the three stages."""

Maps = Float[Tensor, "n channels height width"]


class PostActivationBlock(nn.Module):
    """A block whose activation follows the sum: ``ReLU(z + BN2(Conv2(ReLU(BN1(Conv1(z))))))``.

    Source: He et al. 2016, "Deep residual learning for image recognition", Sec. 4.2; 3 x 3 kernels, zero padding, no
    convolution bias.

    Args:
        width: The channels of the representation.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    @no_type_check  # the audit traces a block, and what it passes in is not a tensor
    def forward(self, z: Maps) -> Maps:
        """The representation after this block."""
        return F.relu(z + self.bn2(self.conv2(F.relu(self.bn1(self.conv1(z))))))


class WideningBlock(nn.Module):
    """The first block of a stage: half the resolution, twice the channels.

    Source: He et al. 2016, Sec. 4.2, option A: the shortcut takes every second row and column, and the new channels of
    the shortcut are zero. Choice: half of them come before the old channels and half after, as in the published
    weights.

    Args:
        width: The channels before; after the block there are twice as many.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(2 * width)
        self.conv2 = nn.Conv2d(2 * width, 2 * width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(2 * width)

    def forward(self, z: Maps) -> Float[Tensor, "n twice_channels half_height half_width"]:
        """From (n, width, height, width) to twice the channels on half the map, rounded up."""
        branch = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(z)))))
        new = z.shape[1] // 2
        return F.relu(branch + F.pad(z[:, :, ::2, ::2], (0, 0, 0, 0, new, new)))


class Stem(nn.Module):
    """Convolution, batch norm, ReLU: from standardised images to the first stage."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])

    def forward(self, images: Float[Tensor, "n 3 height width"]) -> Maps:
        """The input of the first stage."""
        return F.relu(self.bn1(self.conv1(images)))


class PoolingHead(nn.Module):
    """Global average pooling, linear."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTHS[-1], classes)

    def forward(self, z: Maps) -> Float[Tensor, "n classes"]:
        """The logits."""
        return self.linear(z.mean((2, 3)))


def cifar_resnet(blocks: int = 9, classes: int = 10) -> StagedModel:
    """Make one of He et al.'s ResNets for CIFAR-10, initialised as torch initialises layers.

    Source: He et al. 2016, "Deep residual learning for image recognition", Sec. 4.2: 3, 5, 7 and 9 blocks a stage make
    ResNet-20, -32, -44 and -56. Choice: the first block of the second and of the third stage changes the shape, so
    that no path can leave it out or repeat it; it is the transition before its stage, and the stage has the other
    blocks. So the stages of ResNet-56 have 9, 8 and 8 blocks.

    Args:
        blocks: The number of blocks a stage, transitions included; at least 2.
        classes: The number of outputs.

    Returns:
        The network, in training mode. Its images are standardised by ``MEAN`` and ``STD`` of this module.

    Raises:
        InputError: If a number is too small, or too large for the memory.
    """
    blocks = check_count("blocks", blocks, 2, why="leaves stages without blocks")
    classes = check_count("classes", classes)
    weights = 100_000 * blocks + 65 * classes
    check_memory(4 * weights, f"a network with blocks={blocks}, classes={classes}", "use smaller numbers")
    return StagedModel(
        Stem(),
        [
            Stage([PostActivationBlock(width) for _ in range(blocks - (number > 0))])
            for number, width in enumerate(WIDTHS)
        ],
        [WideningBlock(width) for width in WIDTHS[:-1]],
        PoolingHead(classes),
    )


def load_cifar_resnet(path: Path) -> StagedModel:
    """Load published weights of a CIFAR ResNet.

    Args:
        path: A .safetensors file with the published names: ``conv1.weight``, ``layer2.0.bn1.bias``,
            ``linear.weight`` and so on. Nothing in the file is executed.

    Returns:
        The network, in evaluation mode.

    Raises:
        InputError: If the file is missing or damaged, or holds another network.
    """
    safetensors = require("safetensors", "opening weights")
    if not path.is_file():
        raise InputError(f"there are no weights at {path}; pass the .safetensors file of a CIFAR ResNet")
    try:
        # The names and shapes are read before any tensor is.
        with safetensors.safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if not name.endswith("num_batches_tracked")]  # noqa: SIM118
            model = _fit({name: tuple(file.get_slice(name).get_shape()) for name in names}, path)
            tensors = {_own_name(name): file.get_tensor(name) for name in names}
    except (OSError, safetensors.SafetensorError) as problem:
        raise InputError(f"can't read weights from {path} ({line_of(problem)}); download it again") from None
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(tensor.isfinite().all()):
            raise InputError(f"{path} holds values of {name} that are not finite numbers; download it again")
    model.load_state_dict(tensors, strict=False)  # the counts of batches are not in the file
    return model.eval()


def _fit(shapes: dict[str, tuple[int, ...]], path: Path) -> StagedModel:
    """Make the network to which names and shapes of weights belong."""
    counts = [len({name.split(".")[1] for name in shapes if name.startswith(f"layer{n}.")}) for n in (1, 2, 3)]
    classes = shapes.get("linear.bias", ())
    wrong = f"{path} holds no weights of a CIFAR ResNet"
    if len(set(counts)) > 1 or counts[0] < 2 or len(classes) != 1 or not classes[0]:
        raise InputError(f"{wrong}: its three layers have {counts} blocks, and linear.bias has the shape {classes}")
    model = cifar_resnet(counts[0], classes[0])
    found = {_own_name(name): shape for name, shape in shapes.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {name: shape for name, shape in expected.items() if not name.endswith("num_batches_tracked")}
    if found != expected:
        name = sorted(set(found.items()) ^ set(expected.items()))[0][0]
        told = f"{name} should have the shape {expected.get(name)}, and has {found.get(name)}"
        raise InputError(f"{wrong} of {counts[0]} blocks a stage: {told}")
    return model


def _own_name(published: str) -> str:
    """Translate a published name of a tensor into that of this package."""
    layer = re.fullmatch(r"layer([123])\.(0|[1-9]\d{0,5})\.(.+)", published)
    if layer:
        stage, block, rest = int(layer[1]) - 1, int(layer[2]), layer[3]
        if stage and not block:
            return f"transitions.{stage - 1}.{rest}"
        return f"stages.{stage}.blocks.{block - (stage > 0)}.{rest}"
    return f"{'head' if published.startswith('linear.') else 'stem'}.{published}"
