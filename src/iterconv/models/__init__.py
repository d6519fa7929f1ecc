"""The paper's networks, He et al.'s for CIFAR-10, a cellular automaton, and layers between local and convolutional."""

from iterconv.models.blocks import ResidualBlock as ResidualBlock
from iterconv.models.blocks import ResidualStage as ResidualStage
from iterconv.models.cellular_automaton import load_cellular_automaton as load_cellular_automaton
from iterconv.models.cifar_resnet import cifar_resnet as cifar_resnet
from iterconv.models.cifar_resnet import load_cifar_resnet as load_cifar_resnet
from iterconv.models.constrained import ConstrainedStage as ConstrainedStage
from iterconv.models.equilibrium import Equilibrium as Equilibrium
from iterconv.models.equilibrium import to_equilibrium as to_equilibrium
from iterconv.models.exiting import ExitingModel as ExitingModel
from iterconv.models.fixed_point import Iterating as Iterating
from iterconv.models.locally_connected import LocallyConnected2d as LocallyConnected2d
from iterconv.models.resnet import resnet as resnet
from iterconv.models.saved import load as load

__all__ = [
    "ConstrainedStage",
    "Equilibrium",
    "ExitingModel",
    "Iterating",
    "LocallyConnected2d",
    "ResidualBlock",
    "ResidualStage",
    "cifar_resnet",
    "load",
    "load_cellular_automaton",
    "load_cifar_resnet",
    "resnet",
    "to_equilibrium",
]
