"""The paper's networks, and layers between local and convolutional."""

from iterconv.models.blocks import ResidualBlock as ResidualBlock
from iterconv.models.blocks import ResidualStage as ResidualStage
from iterconv.models.constrained import ConstrainedStage as ConstrainedStage
from iterconv.models.exiting import ExitingModel as ExitingModel
from iterconv.models.locally_connected import LocallyConnected2d as LocallyConnected2d
from iterconv.models.resnet import resnet as resnet

__all__ = ["ConstrainedStage", "ExitingModel", "LocallyConnected2d", "ResidualBlock", "ResidualStage", "resnet"]
