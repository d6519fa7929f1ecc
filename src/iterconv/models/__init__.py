"""The paper's networks."""

from iterconv.models.resnet import ConstrainedStage as ConstrainedStage
from iterconv.models.resnet import ResidualBlock as ResidualBlock
from iterconv.models.resnet import ResidualStage as ResidualStage
from iterconv.models.resnet import resnet as resnet

__all__ = ["ConstrainedStage", "ResidualBlock", "ResidualStage", "resnet"]
