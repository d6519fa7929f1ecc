import pytest
import torch

import iterconv as ic
from iterconv import paths
from iterconv.models.toy import (
    ALPHAS,
    exact_network,
    forward_model,
    iterative_algorithm,
    sample,
    toy_network,
    train_toy,
)

pytestmark = pytest.mark.medium

Z = sample(200, torch.Generator().manual_seed(0))


def test_the_algorithm_is_the_texts_update_and_converges():
    x, eps = forward_model(Z), (0.3, 0.8)
    estimates = iterative_algorithm(x, 40)
    z = x.clone()
    for _ in range(40):
        for i in (0, 1):
            z[:, i] -= eps[i] * (ALPHAS[i] * z[:, i] - x[:, i])
    torch.testing.assert_close(estimates[-1], z)
    torch.testing.assert_close(estimates[-1], Z, atol=1e-4, rtol=0)
    errors = (estimates - Z).norm(dim=2).mean(1)
    assert (errors.diff() <= 1e-6).all()


@pytest.mark.parametrize("rates", [(0.3, 0.8), (1.0, 0.1)])
def test_the_hand_built_resnet_is_the_algorithm_block_by_block(rates):
    net, x = exact_network(12, rates), forward_model(Z)
    expected = iterative_algorithm(x, 28, rates)
    full = tuple(range(12))
    routes = [(full,), *[(full[:t],) for t in range(12)], *[(full + (11,) * k,) for k in range(17)]]
    with torch.no_grad():
        outcomes = {route: outcome.output for route, outcome in paths.evaluate(net, routes, x)}
    for (path,), output in outcomes.items():
        torch.testing.assert_close(output, expected[len(path)], rtol=1e-6, atol=1e-6)
    ic.verify(net, net, x)


def test_a_recurrent_net_is_one_block_and_a_feedforward_net_has_no_shortcut():
    assert len({id(block) for block in toy_network("recurrent", 5).stages[0].blocks}) == 1
    net = toy_network("feedforward", 3)
    for block in net.stages[0].blocks:
        torch.nn.init.zeros_(block.outer.weight)
    assert torch.equal(net(Z), net.head.bias.expand(200, 2))


@pytest.mark.extended
def test_training_learns_the_inverse_and_is_seeded():
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        net = toy_network("residual", blocks=4)
        losses.append(train_toy(net, 600, lr=1e-2))
    assert losses[0] == losses[1] < 0.1, "of points that lie 1.6 from the origin on average"


def test_wrong_options():
    with pytest.raises(ic.InputError, match="kind='convolutional'"):
        toy_network("convolutional")
    for make in (exact_network, lambda n: toy_network("residual", n)):
        with pytest.raises(ic.InputError, match="blocks=0"):
            make(0)
