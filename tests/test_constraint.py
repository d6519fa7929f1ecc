"""The constraint on branches of foreign models."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import iterconv as ic
import zoo
from iterconv.lipschitz.constraint import CONSTRAINT_ATTRIBUTE
from residual_blocks import InPlace, PreActivation, Residual, noisy


def network(blocks=3, gain=3.0, dtype=torch.float32):
    """A stem, blocks as in the paper with large weights, a head."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Sequential(*(PreActivation(4) for _ in range(blocks))),
        nn.Flatten(),
        nn.Linear(4 * 36, 3),
    )
    with torch.no_grad():
        for block in net[1]:
            block.conv2.weight *= gain
    return net.to(dtype)


def data(count=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, 1, 6, 6, generator=generator, dtype=dtype)
    return inputs, torch.randint(3, (count,), generator=generator)


def still(net):
    """Keep statistics from moving, so that each forward is of one and the same function."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.0


def train(net, steps=5):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    net.train()
    inputs, targets = data()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()


class Named(nn.Module):
    """Takes its batch by a keyword."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, pixels):
        return self.net(pixels)


def test_adapted_models_and_dictionaries_are_constrained_alike():
    one, other = Named(), Named()
    batch = {"pixels": data()[0]}
    handles = ic.constrain(one, batch, lipschitz=0.5), ic.constrain(ic.adapt(other, batch), batch, lipschitz=0.5)
    assert torch.equal(one(**batch), other(**batch)) and not torch.equal(one(**batch), Named()(**batch))
    for handle in handles:
        assert len(handle.constants) == 3 and (handle.constants.c > 1).all()


@pytest.mark.extended
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.medium
def test_no_branch_exceeds_mu(trained):
    net = network()
    handle = ic.constrain(net, data()[0], lipschitz=0.8)
    if trained:
        train(net)
    table = ic.lipschitz.audit(net, data()[0])
    assert (table.bound > 2).all() and table.constrained.tolist() == pytest.approx([0.8] * 3, rel=1e-5)
    assert (table.measured <= 0.8 + 1e-5).all() and (table.verdict == "contractive").all()
    assert handle.constants.c.tolist() == pytest.approx([bound / 0.8 for bound in table.bound], rel=1e-5)
    assert list(handle.constants.columns) == ["stage", "block", "bound", "c"]


def test_a_branch_below_mu_is_never_scaled_up():
    net, plain = network(gain=0.01).eval(), network(gain=0.01).eval()
    handle = ic.constrain(net, data()[0])
    assert (handle.constants.c == 1).all()
    assert torch.equal(net(data()[0]), plain(data()[0]))


@pytest.mark.parametrize(
    "name, library",
    [
        ("resnet18", "timm"),
        *(pytest.param(name, "timm", marks=pytest.mark.extended) for name in ("regnetx_002", "resnetv2_50")),
    ],
)
@pytest.mark.medium
def test_known_models_are_constrained_and_exported_as_plain_ones(name, library):
    torch.manual_seed(0)
    model, inputs = zoo.timm_model(name, 32)
    noisy(model)
    keys, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    handle = ic.constrain(model, inputs)
    table = ic.lipschitz.audit(model, inputs[:1], iterations=5)
    assert (table.constrained <= 0.95 + 1e-5).all() and (table.bound > 0.95).any()
    assert list(model.state_dict()) != keys, "singular vectors are part of a constrained model's state"
    with torch.no_grad():
        expected = model(inputs)
        handle.export()
        torch.testing.assert_close(model(inputs), expected, rtol=1e-4, atol=1e-5)
    assert list(model.state_dict()) == keys and [type(module) for module in model.modules()] == kinds
    assert not any(module._forward_hooks for module in model.modules())
    after = ic.lipschitz.audit(model, inputs[:1], iterations=5)
    assert (after.bound <= 0.95 + 1e-4).all()


def test_removing_gives_back_the_model_as_it_was():
    net, plain = network().eval(), network().eval()
    handle = ic.constrain(net, data()[0])
    assert not torch.equal(net(data()[0]), plain(data()[0]))
    handle.remove()
    assert torch.equal(net(data()[0]), plain(data()[0])) and list(net.state_dict()) == list(plain.state_dict())
    ic.constrain(net, data()[0])


@pytest.mark.extended
@pytest.mark.medium
def test_training_divides_by_the_bound_and_its_gradient_knows():
    net = network(blocks=2, dtype=torch.float64)
    inputs, _ = data(dtype=torch.float64)
    ic.constrain(net, inputs)
    net.train()
    still(net)
    block = net[1][0]
    constraint = getattr(block, CONSTRAINT_ATTRIBUTE)
    for each in net[1]:
        for _ in range(1500):  # the singular vectors settle
            getattr(each, CONSTRAINT_ATTRIBUTE).train().constant()
    converged = copy.deepcopy(constraint).eval().constant()
    torch.testing.assert_close(constraint.constant().detach(), converged, rtol=1e-3, atol=0)
    weights = [block.conv1.weight, block.conv2.weight, block.bn2.weight]
    weight_of_loss = torch.randn(8, 3, dtype=torch.float64)

    def loss():
        return (net(inputs) * weight_of_loss).sum()

    gradients = torch.autograd.grad(loss(), weights)
    for weight, gradient in zip(weights, gradients, strict=True):
        direction, step = torch.randn_like(weight), 1e-5
        with torch.no_grad():
            weight += step * direction
            above = loss()
            weight -= 2 * step * direction
            below = loss()
            weight += step * direction
        expected = (above - below) / (2 * step)
        torch.testing.assert_close((gradient * direction).sum(), expected, rtol=3e-3, atol=1e-5)


def test_one_step_a_change_of_the_weights_and_none_in_evaluation():
    net = network()
    still(net)
    ic.constrain(net, data()[0])
    vectors = {name: buffer.clone() for name, buffer in net.named_buffers() if CONSTRAINT_ATTRIBUTE in name}
    assert len(vectors) == 6
    net.eval()(data()[0])
    assert all(torch.equal(net.get_buffer(name), vector) for name, vector in vectors.items())
    net.train()(data()[0])
    assert all(not torch.equal(net.get_buffer(name), vector) for name, vector in vectors.items())
    vectors = {name: net.get_buffer(name).clone() for name in vectors}
    net(data()[0])
    assert all(torch.equal(net.get_buffer(name), vector) for name, vector in vectors.items())
    train(net, 1)
    net(data()[0])
    assert all(not torch.equal(net.get_buffer(name), vector) for name, vector in vectors.items())


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_training_is_the_same(reentrant):
    class Checkpointed(nn.Module):
        """A block as gradient checkpointing has it: run once more in the backward pass."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, z):
            return checkpoint(self.inner, z, use_reentrant=reentrant)

    def blocks():
        torch.manual_seed(0)  # no batch norms, whose statistics would be updated twice
        return [Residual(nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.GELU(), nn.Conv2d(4, 4, 1))) for _ in range(2)]

    stem, head = nn.Conv2d(1, 4, 3, padding=1), nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 3))
    plain = nn.Sequential(copy.deepcopy(stem), *blocks(), copy.deepcopy(head))
    ic.constrain(plain, data()[0], lipschitz=0.2)
    checked = copy.deepcopy(plain)
    for number in (1, 2):
        checked[number] = Checkpointed(checked[number])
    train(plain, 4)
    train(checked, 4)
    assert all(torch.equal(p, q) for p, q in zip(plain.parameters(), checked.parameters(), strict=True))


def test_a_constant_made_within_a_transform_is_of_use_outside():
    net = network().eval()
    ic.constrain(net, data()[0])
    block, z = net[1][0], torch.randn(4, 6, 6)
    torch.func.jacrev(lambda z: block(z[None])[0])(z)
    assert torch.equal(copy.deepcopy(block)(z[None]), block(z[None]))


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch's own, while it compiles
@pytest.mark.medium
def test_a_compiled_model_is_constrained_alike():
    net = network()
    still(net)
    ic.constrain(net, data()[0])
    compiled = torch.compile(net, backend="aot_eager")
    for mode in (False, True):
        net.train(mode)
        torch.testing.assert_close(compiled(data()[0]), net(data()[0]))


@pytest.mark.medium
def test_a_copy_has_a_constraint_of_its_own():
    net = network().eval()
    ic.constrain(net, data()[0])
    other = copy.deepcopy(net)
    with torch.no_grad():
        for block in other[1]:
            block.conv1.weight *= 7
    before = net(data()[0])
    assert (ic.lipschitz.audit(other, data()[0]).constrained < 0.95 + 1e-5).all()
    assert (ic.lipschitz.audit(net, data()[0]).constrained < 0.95 + 1e-5).all()
    assert torch.equal(net(data()[0]), before) and not torch.equal(other(data()[0]), before)


def test_state_goes_into_a_fresh_model_and_training_goes_on_alike():
    net, fresh = network(), network()
    for each in (net, fresh):
        ic.constrain(each, data()[0])
    train(net, 3)
    fresh.load_state_dict(net.state_dict())
    train(net, 2)
    train(fresh, 2)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), fresh.parameters(), strict=True))


def test_constraint_and_coupling_go_together():
    net = network()
    ic.constrain(net, data()[0])
    for block in list(net[1])[1:]:
        block.load_state_dict(net[1][0].state_dict())
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    ic.couple(optimizer, [list(net[1])], 1.0)
    net.train()
    for _ in range(3):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data()[0]), data()[1]).backward()
        optimizer.step()
    assert torch.equal(net[1][0].conv1.weight, net[1][2].conv1.weight)
    assert (ic.lipschitz.audit(net, data()[0]).constrained <= 0.95 + 1e-5).all()


class Scaled(nn.Module):
    """Linear layers with a learnable scale between them."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(4, 4), nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, z):
        return z + self.b(self.scale * self.a(z))


class Exponential(Scaled):
    """The scale is made of a parameter, and so would change with it."""

    def forward(self, z):
        return z + self.b(self.scale.exp() * self.a(z))


def in_a_net(*blocks):
    return nn.Sequential(nn.Linear(2, 4), *blocks, nn.Linear(4, 3))


def pairs(make):
    return in_a_net(*(Residual(make()) for _ in range(2)))


@pytest.mark.parametrize(
    "model, says",
    [
        (pairs(lambda: nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4))), "parts without a bound: LayerNorm"),
        (in_a_net(InPlace(nn.Linear(4, 4)), InPlace(nn.Linear(4, 4))), "computes something else"),
        (in_a_net(Exponential(), Exponential()), "parts without a bound: mul"),
        (pairs(lambda: nn.Sequential(nn.Linear(4, 4), nn.PReLU(), nn.Linear(4, 4))), "parts without a bound: PReLU"),
        (pairs(lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU())), "does not end in a layer"),
        (pairs(lambda: nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False))), "does not end in a layer"),
        (pairs(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))), "does not end in a layer"),
        (pairs(lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2)), "uses a layer twice"),
    ],
)
def test_what_can_not_be_constrained_is_refused_and_left_alone(model, says):
    before = list(model.state_dict())
    with pytest.raises(ic.InputError, match=says) as error:
        ic.constrain(model, torch.randn(5, 2))
    assert "\n" not in str(error.value) and list(model.state_dict()) == before
    assert not any(module._forward_hooks for module in model.modules())


def test_wrong_options_are_refused():
    net = network()
    for mu in (0, -1.0, float("nan")):
        with pytest.raises(ic.InputError, match=rf"lipschitz={mu} is not in \(0, inf\)"):
            ic.constrain(net, data()[0], lipschitz=mu)
    ic.constrain(net, data()[0])
    with pytest.raises(ic.InputError, match="constrained already"):
        ic.constrain(net, data()[0])
    own = ic.models.resnet(width=4, blocks=2, stages=1, in_channels=1, residual="proper")
    with pytest.raises(ic.InputError, match="constrained by construction"):
        ic.constrain(own, torch.randn(2, 1, 8, 8))


def test_a_learnable_scale_is_followed_as_it_trains():
    torch.manual_seed(0)
    net, inputs = nn.Sequential(Scaled(), Scaled()), torch.randn(8, 4)
    ic.constrain(net, inputs)
    with torch.no_grad():
        net[0].scale.copy_(torch.tensor([30.0, -40.0, 1.0, 0.0]))
    dense = 40 * math.prod(torch.linalg.matrix_norm(layer.weight.detach(), 2).item() for layer in (net[0].a, net[0].b))
    table = ic.lipschitz.audit(net, inputs)
    assert table.bound[0] == pytest.approx(dense, rel=1e-5)
    assert table.constrained[0] == pytest.approx(0.95, rel=1e-5)
    net.train()
    assert getattr(net[0], CONSTRAINT_ATTRIBUTE).constant().item() == pytest.approx(dense / 0.95, rel=0.05)
    net(inputs).sum().backward()
    assert net[0].scale.grad[1] != 0


def test_layers_that_start_at_zero_are_followed_once_they_do_not():
    torch.manual_seed(0)
    blocks = [Residual(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))) for _ in range(2)]
    for block in blocks:
        nn.init.zeros_(block.branch[1].weight)
    net, inputs = nn.Sequential(*blocks), torch.randn(16, 4)
    handle = ic.constrain(net, inputs)
    net.train()(inputs)
    with torch.no_grad():
        for block in blocks:
            block.branch[1].weight.fill_(5.0)
    for _ in range(20):
        net.train()(inputs)
    now = [getattr(block, CONSTRAINT_ATTRIBUTE).constant().item() for block in blocks]
    assert min(now) > 1 and now == pytest.approx(handle.constants.c.tolist(), rel=0.05)


def test_weights_written_through_data_are_seen_after_the_next_eval_or_train():
    net = network()
    ic.constrain(net, data()[0])
    for mode in (False, True):
        still(net.train(mode))
        net(data()[0])
        before = [getattr(block, CONSTRAINT_ATTRIBUTE).constant().item() for block in net[1]]
        for parameter in net[1].parameters():
            parameter.data.mul_(4)  # as when averaged weights are swapped in
        net.train(mode)
        after = [getattr(block, CONSTRAINT_ATTRIBUTE).constant().item() for block in net[1]]
        assert min(b / a for a, b in zip(before, after, strict=True)) > 2
    fresh = copy.deepcopy(net)
    assert torch.equal(net.eval()(data()[0]), fresh.eval()(data()[0]))


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}])
@pytest.mark.parametrize("mode", [False, True])
def test_steps_of_every_kind_of_optimizer_are_seen(options, mode):
    """The fused kernels raise no version."""
    net = network().train(mode)
    still(net)
    ic.constrain(net, data()[0])
    optimizer = torch.optim.Adam(net.parameters(), lr=0.1, **options)
    nn.functional.cross_entropy(net(data()[0]), data()[1]).backward()
    before = [getattr(block, CONSTRAINT_ATTRIBUTE).constant().item() for block in net[1]]
    optimizer.step()
    after = [getattr(block, CONSTRAINT_ATTRIBUTE).constant().item() for block in net[1]]
    assert all(a != b for a, b in zip(before, after, strict=True))
    if mode:  # the singular vectors have moved on too, as they have not without a change
        vectors = [buffer.clone() for name, buffer in net.named_buffers() if CONSTRAINT_ATTRIBUTE in name]
        net(data()[0])
        assert all(map(torch.equal, vectors, [b for n, b in net.named_buffers() if CONSTRAINT_ATTRIBUTE in n]))
        optimizer.step()
        net(data()[0])
        assert not any(map(torch.equal, vectors, [b for n, b in net.named_buffers() if CONSTRAINT_ATTRIBUTE in n]))


def test_no_value_of_a_weight_is_read_in_training(monkeypatch):
    """Reading one would make the forward wait for a GPU."""
    net = network().train()
    ic.constrain(net, data()[0])
    net(data()[0])
    for name in ("item", "tolist", "__bool__", "__float__", "cpu", "numpy"):

        def refuse(self, *_, name=name, **__):
            raise AssertionError(f"{name} waits for the device")

        monkeypatch.setattr(torch.Tensor, name, refuse)
    train(net, 2)


def test_shared_last_layers_are_refused():
    inputs, last, other = torch.randn(8, 4), nn.Linear(4, 4), nn.Linear(4, 4)
    other.weight = last.weight
    for second in (last, other):
        ends = (last, second)
        net = nn.Sequential(*[Residual(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), end)) for end in ends])
        with pytest.raises(ic.InputError, match="used elsewhere too"):
            ic.constrain(net, inputs)
        assert not any(hasattr(block, CONSTRAINT_ATTRIBUTE) for block in net)
