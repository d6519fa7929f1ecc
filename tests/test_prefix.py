"""Prefix sums: data, nets, training, tests and the study, against naive versions of each."""

import math
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

import iterconv as ic
from iterconv import InputError, paths
from iterconv.models.prefix import block_at, draw_strings, prefix_network
from iterconv.paths.contract import require_staged
from iterconv.studies import extrapolation
from iterconv.studies.extrapolation import extrapolate, tied
from iterconv.studies.prefix_runs import PrefixRun, prefix_runs
from iterconv.tasks import BitStrings
from iterconv.training import prefix
from iterconv.training.prefix import PrefixConfig, PrefixTrainer, draw_depths, logits_after, train_prefix

pytestmark = pytest.mark.medium

NEVER = threading.Event()
SMALL = PrefixConfig(width=4, blocks=3, bits=6, steps=20, batch_size=8, lengths=(6, 8), strings=9, iterations=12)


def draw(n=5, length=9, seed=0):
    return draw_strings(n, length, torch.Generator().manual_seed(seed))


def network(seed=0, **options):
    torch.manual_seed(seed)
    return prefix_network(4, 3, **options)


def test_the_targets_are_the_parities_of_the_bits_so_far():
    strings, sums = draw(50, 17)
    bits = (strings[:, 0] + 0.5).numpy()
    assert set(np.unique(bits)) == {0.0, 1.0} and sums.shape == (50, 17)
    for row, parities in zip(bits, sums.numpy(), strict=True):
        odd = False
        for bit, parity in zip(row, parities, strict=True):
            odd ^= bool(bit)
            assert odd == parity
    assert torch.equal(draw(seed=3)[0], draw(seed=3)[0]) and not torch.equal(draw(seed=3)[0], draw(seed=4)[0])


def naive_convolution(weight, z):
    """A convolution of width 3 with zeros beyond both ends, with loops."""
    out = np.zeros((len(weight), z.shape[1]))
    for o in range(len(weight)):
        for position in range(z.shape[1]):
            for i in range(len(z)):
                for offset in (-1, 0, 1):
                    if 0 <= position + offset < z.shape[1]:
                        out[o, position] += weight[o, i, offset + 1] * z[i, position + offset]
    return out


def naive_step(block, z, bits):
    weights = {name: parameter.detach().double().numpy()[:, :, 0] for name, parameter in block.named_parameters()}
    relu = lambda values: np.maximum(values, 0)  # noqa: E731
    conv = lambda name, values: naive_convolution(weights[f"{name}.weight"], values)  # noqa: E731
    z = relu(conv("enter", np.concatenate([z, bits]) if block.recall else z))
    z = relu(z + conv("second", relu(conv("first", z))))
    z = relu(z + conv("fourth", relu(conv("third", z))))
    return z / np.sqrt((z**2).mean(0, keepdims=True) + 1e-8) if block.norm else z


@pytest.mark.parametrize("recall", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_a_step_is_the_naive_one(recall, norm):
    net, (strings, _) = network(recall=recall, norm=norm), draw(2)
    require_staged(net)
    start = net.stem(strings)
    assert torch.equal(start[:, :1].squeeze(2), strings), "any block finds the string in what enters the stage"
    z = net.stages[0].step(1, net.stages[0].step(0, start, start), start).detach()
    for string, first, found in zip(strings.double().numpy(), start.detach().double().numpy(), z, strict=True):
        expected = first[:, 0]
        for block in list(net.stages[0].blocks)[:2]:
            expected = naive_step(block, expected, string)
        np.testing.assert_allclose(found[:, 0], expected, rtol=1e-4, atol=1e-5)
    assert not norm or z.square().mean(1).allclose(torch.ones(()), atol=1e-3) or bool((z == 0).all(1).any())


def test_only_nets_with_recall_see_the_string_again():
    strings, other = draw(4)[0], draw(4, seed=1)[0]
    for recall in (True, False):
        stage, z = network(recall=recall).stages[0], torch.rand(4, 4, 1, 9)
        outputs = [stage.step(0, z, network().stem(each)) for each in (strings, other)]
        assert torch.equal(*outputs) != recall


def test_what_follows_the_last_block():
    assert [block_at(i, 3, "last") for i in range(7)] == [0, 1, 2, 2, 2, 2, 2]
    assert [block_at(i, 3, "cycle") for i in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def naive_progressive_loss(net, strings, sums, skipped, learnt):
    """The loss by a net that is rebuilt as one function, with the early state as a constant."""
    start = net.stem(strings)
    z = start
    for index in range(skipped + learnt):
        if index == skipped and skipped:
            z = z.detach()
        z = net.stages[0].blocks[index](z, strings.unsqueeze(2))
    chances = torch.sigmoid(net.head(z).double())
    return -(sums * chances.log() + (1 - sums) * (1 - chances).log()).mean()


@pytest.mark.parametrize(("skipped", "learnt"), [(0, 1), (0, 3), (1, 1), (2, 1)])
def test_the_progressive_loss_is_the_naive_one(skipped, learnt):
    net, (strings, sums) = network(), draw()
    loss = F.binary_cross_entropy_with_logits(logits_after(net, strings, skipped, learnt), sums.float())
    expected = naive_progressive_loss(net, strings, sums, skipped, learnt)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=0)
    parameters = dict(net.named_parameters())
    found = torch.autograd.grad(loss, parameters.values(), allow_unused=True)
    wanted = torch.autograd.grad(expected, parameters.values(), allow_unused=True)
    for (name, parameter), mine, right in zip(parameters.items(), found, wanted, strict=True):
        zeros = torch.zeros_like(parameter)
        mine, right = (zeros if each is None else each for each in (mine, right))
        torch.testing.assert_close(mine, right, rtol=1e-4, atol=1e-7)
        if "blocks" in name:
            assert mine.any() == (skipped <= int(name.split(".")[3]) < skipped + learnt) or not right.any()


def test_depths_are_drawn_uniformly():
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_depths(4, generator) for _ in range(8000)]
    share = pd.Series(drawn).value_counts(normalize=True)
    expected = {(n, k): 1 / 4 / (4 - n) for n in range(4) for k in range(1, 5 - n)}
    assert set(share.index) == set(expected)
    assert all(abs(share[pair] - probability) < 0.015 for pair, probability in expected.items())


def train(**changes):
    trainer = PrefixTrainer(replace(SMALL, **changes))
    for _ in range(10):
        trainer.advance()
    return trainer.network


def spread(net):
    return ic.effective_parameter_count(net, net.coupling_groups()).mean_deviation


@pytest.mark.parametrize("progressive", [True, False])
def test_coupling_of_one_ties_the_blocks_and_less_does_not(progressive):
    assert tied(train(coupling=1.0, progressive=progressive))
    spreads = [spread(train(coupling=coupling, progressive=progressive)) for coupling in (0.0, 0.9, 1.0)]
    assert spreads[0] > spreads[1] > spreads[2] == 0
    assert not tied(train(init="independent", coupling=1.0))


def test_full_coupling_is_the_tied_net_under_adam():
    """One block that is used three times, whose gradient is the mean of those at each use."""
    net = train(coupling=1.0, steps=10)
    config = replace(SMALL, coupling=1.0, steps=10)
    one = prefix.make_prefix_network(config)
    block = one.stages[0].blocks[0]
    optimizer = torch.optim.Adam([*one.stem.parameters(), *block.parameters(), *one.head.parameters()], lr=config.lr)
    generator = torch.Generator().manual_seed(config.seed)
    for step in range(10):
        optimizer.param_groups[0]["lr"] = config.lr if step <= 5 else config.lr * (10 - step) / 5
        strings, sums = draw_strings(config.batch_size, config.bits, generator)
        skipped, learnt = draw_depths(config.blocks, generator)
        # Copies of the block, so that the gradient of each use is seen before it is clipped and averaged.
        uses = [dict(zip(dict(block.named_parameters()), each, strict=True)) for each in _copies(block, 3)]
        z = start = one.stem(strings) if not skipped else one.stem(strings).detach()
        for index in range(skipped + learnt):
            z = torch.func.functional_call(block, uses[index], (z, strings.unsqueeze(2)))
            z = z.detach() if index < skipped else z
        F.binary_cross_entropy_with_logits(one.head(z), sums.float()).backward()
        every = [p.grad for use in uses for p in use.values() if p.grad is not None]
        outer = [p for part in (one.stem, one.head) for p in part.parameters()]
        norm = torch.stack([g.norm() for g in (*every, *(p.grad for p in outer if p.grad is not None))]).norm()
        factor = min(1.0, 1.0 / (norm.item() + 1e-6))
        for name, parameter in block.named_parameters():
            gradients = [use[name].grad for use in uses if use[name].grad is not None]
            parameter.grad = sum(gradients) * factor / 3
        for parameter in outer:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad * factor
        optimizer.step()
        optimizer.zero_grad()
        assert start is not None
    for mine, right in zip(net.stages[0].blocks[2].parameters(), block.parameters(), strict=True):
        torch.testing.assert_close(mine, right, rtol=1e-3, atol=1e-5)


def _copies(block, count):
    return [[p.detach().clone().requires_grad_() for p in block.parameters()] for _ in range(count)]


def test_the_test_is_the_naive_one():
    config = replace(SMALL, iterations=8, lengths=(6, 70), strings=7)
    net = network(seed=1)
    table = extrapolate(net, config, NEVER).set_index(["beyond", "length", "iterations"]).sort_index()
    for beyond in ("last", "cycle"):
        strings, sums = draw_strings(7, 6, torch.Generator().manual_seed(extrapolation.SEED + 6))
        start = net.stem(strings).detach()
        states = [start]
        for iteration in range(8):
            z = net.stages[0].step(block_at(iteration, 3, beyond), states[-1], start).detach()
            states.append(z)
            if iteration + 1 in (1, 2, 4, 8):
                row = table.loc[(beyond, 6, iteration + 1)]
                right = (net.head(z) > 0) == (sums > 0)
                assert row["accuracy"] == pytest.approx(right.all(1).float().mean().item())
                assert row["bit_accuracy"] == pytest.approx(right.float().mean().item())
                assert row["finite"] == 1 and row["run"]
                period = 3 if beyond == "cycle" else 1
                if iteration + 1 < period:
                    assert math.isnan(row["residual"])
                    continue
                moved = [float((a - b).norm() / b.norm()) for a, b in zip(z, states[-1 - period], strict=True)]
                assert row["residual"] == pytest.approx(np.mean(moved), rel=1e-4)
    later = table.loc[("last", 70)]
    assert table.loc[("last", 6)]["accuracy"].any() or not later["run"].any(), "not run where nothing was right before"


def test_states_that_overflow_are_wrong_and_have_no_step():
    net = network(norm=False)
    with torch.no_grad():
        for parameter in net.stages[0].parameters():
            parameter.mul_(1e6)
    table = extrapolate(net, SMALL, NEVER)
    last = table[table["iterations"] == 12]
    assert (last["finite"] == 0).all() and (last["accuracy"] == 0).all() and last["residual"].isna().all()
    assert (last["settled"] == 0).all()


def test_a_string_is_one_row_of_the_indices():
    net, (strings, sums) = network(), draw(30, 6)
    report = ic.measure(net, [(strings, sums)], task=BitStrings(), resamples=0)
    right = ((net.head(net.stages[0](net.stem(strings))) > 0) == (sums > 0)).all(1)
    assert report.intact_error == pytest.approx(1 - right.float().mean().item())
    assert report.options["chance"] == 1 - 2**-6
    early = report.curves[(report.curves.perturbation == "early read-out") & (report.curves.metric == "error")]
    path = list(early.path.iloc[1])
    ((_, outcome),) = paths.evaluate(net, [(tuple(path),)], strings)
    wrong = ((outcome.output > 0) != (sums > 0)).any(1).float().mean().item()
    assert early.value.iloc[1] == pytest.approx(wrong)
    with pytest.raises(InputError, match="rows of 6 bits"):
        ic.measure(net, [(strings, sums[:, :3])], task=BitStrings())


class After(threading.Event):
    """Asks to stop from the n-th question on."""

    def __init__(self, n):
        super().__init__()
        self.left = n

    def is_set(self):
        self.left -= 1
        return self.left < 0


@pytest.mark.parametrize("asked", [1, 7, 20])
def test_an_interrupted_net_ends_with_the_same_bytes(tmp_path, asked):
    run = PrefixRun(replace(SMALL, coupling=0.5))
    run.run(tmp_path / "whole", lambda *_: None, NEVER)
    with pytest.raises(KeyboardInterrupt):
        run.run(tmp_path / "parts", lambda *_: None, After(asked))
    assert not run.finished(tmp_path / "parts")
    run.run(tmp_path / "parts", lambda *_: None, NEVER)
    assert run.finished(tmp_path / "parts")
    files = {path.name: path.read_bytes() for path in (tmp_path / "whole" / run.name).iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "parts" / run.name).iterdir()}
    assert set(files) == {"config.json", "net.safetensors", "readouts.parquet", "report.parquet", "result.json"}


def test_a_foreign_checkpoint_is_refused(tmp_path):
    run, other = PrefixRun(SMALL), PrefixRun(replace(SMALL, width=5))
    for each in (run, other):
        with pytest.raises(KeyboardInterrupt):
            train_prefix(each.config, tmp_path / f"{each.config.width}.safetensors", lambda *_: None, After(2))
    with pytest.raises(InputError, match="of another net"):
        train_prefix(run.config, tmp_path / "5.safetensors", lambda *_: None, NEVER)


@pytest.mark.parametrize("change", [{"coupling": 1.5}, {"steps": 0}, {"init": "none"}, {"width": 1}, {"lr": 0.0}])
def test_wrong_options(change):
    with pytest.raises(InputError, match=next(iter(change))):
        PrefixConfig(**change)


def test_runs_are_every_condition_of_a_seed_before_the_next():
    runs = prefix_runs(range(2))
    assert len(runs) == len({run.name for run in runs}) == 4 * 2 * 5
    assert [run.config.lacks for run in runs[::10]] == ["nothing", "norm", "progressive", "recall"]
    assert [run.config.seed for run in runs[:10]] == [0] * 5 + [1] * 5
    assert runs[0].name.startswith("prefix-ind-c0-seed0-") and runs[10].name.startswith("prefix-no-norm-ind-c0-")
    assert not math.isnan(runs[0].seconds)
