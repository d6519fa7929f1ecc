import numpy as np
import pytest
import torch
from torch import nn

import iterconv as ic
from iterconv.models import LocallyConnected2d


def local_layer(equal_start=True, stride=1, dtype=torch.float64):
    torch.manual_seed(0)
    return LocallyConnected2d(2, 3, 3, (6, 5), stride=stride, padding=1, equal_start=equal_start).to(dtype)


def convolution_like(layer, stride=1):
    conv = nn.Conv2d(2, 3, 3, stride=stride, padding=1).to(layer.weight.dtype)
    with torch.no_grad():
        conv.weight.copy_(layer.weight[0, 0])
        conv.bias.copy_(layer.bias[0, 0])
    return conv


def train(layer, optimizer, count=4):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        inputs = torch.randn(8, 2, 6, 5, generator=generator, dtype=layer.weight.dtype)
        optimizer.zero_grad()
        layer(inputs).tanh().square().sum().backward()
        optimizer.step()


def coupled(layer, optimizer, strength):
    for parameter in (layer.weight, layer.bias):
        ic.couple_axis(optimizer, parameter, (0, 1), strength)


@pytest.mark.parametrize("stride", [1, 2])
def test_with_equal_kernels_it_is_a_convolution(stride):
    layer = local_layer(stride=stride)
    x = torch.randn(4, 2, 6, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x), convolution_like(layer, stride)(x))


def test_each_position_has_its_own_kernel():
    layer, x = local_layer(equal_start=False), torch.randn(4, 2, 6, 5, dtype=torch.float64)
    padded, y = nn.functional.pad(x, (1, 1, 1, 1)), layer(x)
    for row in range(6):
        for column in range(5):
            window = padded[:, None, :, row : row + 3, column : column + 3]
            expected = (window * layer.weight[row, column]).sum((2, 3, 4)) + layer.bias[row, column]
            torch.testing.assert_close(y[:, :, row, column], expected)


def test_strength_1_trains_as_a_convolution_does():
    layer = local_layer()
    conv = convolution_like(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.03, momentum=0.9)
    coupled(layer, optimizer, 1.0)
    train(layer, optimizer)
    # The convolution's gradient is the sum over its 30 positions, the coupled one the mean.
    train(conv, torch.optim.SGD(conv.parameters(), lr=0.03 / 30, momentum=0.9))
    assert bool((layer.weight == layer.weight[0, 0]).all()) and bool((layer.bias == layer.bias[0, 0]).all())
    torch.testing.assert_close(layer.weight[3, 2], conv.weight)
    torch.testing.assert_close(layer.bias[3, 2], conv.bias)
    assert not torch.allclose(conv.weight, convolution_like(local_layer()).weight, atol=1e-3), "something was learnt"


def test_strength_0_is_plain_training_bit_for_bit():
    plain, dialled = local_layer(), local_layer()
    train(plain, torch.optim.Adam(plain.parameters()))
    optimizer = torch.optim.Adam(dialled.parameters())
    coupled(dialled, optimizer, 0.0)
    train(dialled, optimizer)
    assert torch.equal(plain.weight, dialled.weight) and torch.equal(plain.bias, dialled.bias)
    assert not torch.equal(plain.weight[0, 0], plain.weight[3, 2])


@pytest.mark.parametrize("kernel", ["uniform", "triangular"])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("strength", [0.25, 0.7, 1.0])
def test_one_axis_is_mixed_by_the_kernel(kernel, axis, strength):
    parameter = nn.Parameter(torch.zeros(4, 3, 5, dtype=torch.float64))
    optimizer = torch.optim.SGD([parameter], lr=1.0)
    handle = ic.couple_axis(optimizer, parameter, axis, strength, kernel)
    parameter.grad = torch.randn_like(parameter)
    raw = parameter.grad.clone()
    optimizer.step()
    matrix = ic.coupling.coupling_matrix(raw.shape[axis], strength, kernel)
    expected = torch.zeros_like(raw)
    for t in range(raw.shape[axis]):
        for s in range(raw.shape[axis]):
            expected.select(axis, t).add_(raw.select(axis, s), alpha=float(matrix[t, s]))
    torch.testing.assert_close(-parameter.detach(), expected)
    assert handle.state_dict()["group_sizes"] == [raw.shape[axis]]


def test_wrong_axes_are_refused():
    layer = local_layer()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    for arguments, says in (
        ((layer.weight, 6, 0.5), "axis=6 does not exist in a parameter of shape"),
        ((layer.weight, (), 0.5), "does not exist"),
        ((layer.weight, (0, -6), 0.5), "names an axis twice"),
        ((layer.weight, (0, 1), 0.5, "triangular"), "order of positions"),
        ((layer.weight, 0, 1.5), "strength=1.5"),
        ((layer.weight, "0", 0.5), "axis='0' is not a whole number"),
        ((layer, 0, 0.5), "LocallyConnected2d is not a parameter"),
        ((nn.Parameter(torch.ones(3)), 0, 0.5), "does not hold the parameters of the axis"),
        ((nn.Parameter(torch.ones(1, 3)), 0, 0.5), "has 1 position"),
    ):
        with pytest.raises(ic.InputError, match=says) as error:
            ic.couple_axis(optimizer, *arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(ic.InputError, match=r"images of shape"):
        layer(torch.randn(1, 2, 5, 5, dtype=torch.float64))
    with pytest.raises(ic.InputError, match="kernel_size=9 does not fit"):
        LocallyConnected2d(1, 1, 9, (4, 4))
    with pytest.raises(ic.InputError, match="1 or more"):
        LocallyConnected2d(1, 0, 3, (4, 4))


def test_a_state_whose_kernel_needs_an_order_does_not_fit_several_axes():
    layer = local_layer()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    handle = ic.couple_axis(optimizer, layer.weight, (0, 1), 0.5)
    before = handle.state_dict()
    with pytest.raises(ic.InputError, match="the triangular kernel needs an order of positions; couple one axis"):
        handle.load_state_dict({**before, "kernel": "triangular"})
    assert handle.state_dict() == before, "a refusal changes nothing"


def test_any_kernel_without_an_order_mixes_several_axes(registries):
    class Plain(ic.coupling.Kernel):
        name, ordered = "plain", False

        def matrix(self, count, strength, normalise):
            return ic.coupling.coupling_matrix(count, strength)

    ic.coupling.register(Plain())
    moved = []
    for kernel in ("uniform", "plain"):
        layer = local_layer(equal_start=False)
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
        ic.couple_axis(optimizer, layer.weight, (1, 0), 0.4, kernel)
        train(layer, optimizer, 1)
        moved.append(layer.weight.detach())
    torch.testing.assert_close(*moved)


def test_layers_that_can_not_be_made():
    with pytest.raises(ic.InputError, match="kernel_size=True is not a whole number"):
        ic.models.LocallyConnected2d(1, 1, True, (8, 8))


def test_numpy_numbers_are_axes():
    layer = ic.models.LocallyConnected2d(1, 1, 3, (4, 4))
    before = layer.weight.detach().clone()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    ic.couple_axis(optimizer, layer.weight, np.int64(0), 1.0)
    layer.weight.grad = torch.randn_like(layer.weight)
    mean = layer.weight.grad.mean(0, keepdim=True)
    optimizer.step()
    torch.testing.assert_close(layer.weight.detach(), before - 0.1 * mean)


def test_coupling_matrices_have_blocks():
    with pytest.raises(ic.InputError, match="num_blocks=0 is too small"):
        ic.coupling.kernels.coupling_matrix(0, 0.5)
