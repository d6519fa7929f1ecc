"""The paper's networks."""

from iterconv.models.blocks import ResidualBlock as ResidualBlock
from iterconv.models.blocks import ResidualStage as ResidualStage
from iterconv.models.constrained import ConstrainedStage as ConstrainedStage
from iterconv.models.resnet import resnet as resnet

__all__ = ["ConstrainedStage", "ResidualBlock", "ResidualStage", "resnet"]
