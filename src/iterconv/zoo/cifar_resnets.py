"""``cifar-resnet:PATH``: He et al.'s ResNets for CIFAR-10, with published weights in a .safetensors file."""

from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from iterconv.errors import InputError
from iterconv.models.cifar_resnet import MEAN, SIZE, STD, load_cifar_resnet
from iterconv.paths.untouched import untouched
from iterconv.zoo.common import Opened, choose_reference, load_images, require_images
from iterconv.zoo.model_options import ModelOptions
from iterconv.zoo.smaller import read_origin, shrink

FAR = 0.25
"""The distance from the images of training at which images are refused, as ``distance_from_training`` returns it."""

LEAST, MOST = 64, 256
"""The numbers of images on which the distance is computed; fewer than the least differ from all others by chance."""


def open_cifar_resnet(path: str, options: ModelOptions) -> Opened:
    """Load a network, and images that are standardised as those of its training were.

    Args:
        path: The file of weights, as for ``iterconv.models.load_cifar_resnet``.
        options: The user's options.

    Returns:
        The model and its batches.

    Raises:
        InputError: If the weights or the data can't be loaded or don't fit each other.
    """
    require_images(options)
    model: Any = load_cifar_resnet(Path(path).expanduser())
    if options.weights != "pretrained":
        origin = read_origin(Path(options.weights))
        if origin is None:
            wrong = f"--weights {options.weights} is not for cifar-resnet:{path}, which has its own"
            raise InputError(f"{wrong}; use pretrained, or a smaller model of it that `iterconv plan --save` wrote")
        model = shrink(model, None, origin, Path(options.weights))
    batches, classes = load_images(options, SIZE, len(MEAN), MEAN, STD)
    images = torch.cat([inputs for inputs, _ in islice(batches, -(-MOST // options.batch_size))])
    distance = distance_from_training(model, images)
    if distance > FAR and len(images) >= LEAST:
        raise InputError(
            f"the images of {options.data} are unlike those that {path} was trained on (the responses of its first "
            f"layer are off by {distance:.2g} standard deviations); use cifar10"
        )
    return choose_reference(model, batches, classes, model.head.linear.out_features, options)


def distance_from_training(model: Any, images: Tensor) -> float:
    """Compare the responses of a network's first convolution to images with those that it had in training.

    The batch norm behind the convolution has kept the mean and standard deviation of each channel. Images that are
    standardised in another way give a plausible but wrong error, and only these statistics tell.

    Args:
        model: A network of ``iterconv.models.cifar_resnet`` with trained weights.
        images: Standardised images, shape (n, 3, height, width).

    Returns:
        The root mean square, over the channels, of the differences of means and of standard deviations, in standard
        deviations of training; at least 0. Choice: the first layer alone, as all later ones see what it makes.
    """
    norm = model.stem.bn1
    with untouched(model):
        responses = model.stem.conv1(images)
        spread = norm.running_var.sqrt()
        shift = (responses.mean((0, 2, 3)) - norm.running_mean) / spread
        stretch = responses.std((0, 2, 3)) / spread - 1
    return float(torch.cat([shift, stretch]).square().mean().sqrt())
