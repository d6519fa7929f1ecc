import inspect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import iterconv as ic
from iterconv import paths
from iterconv.cli.main import main
from iterconv.paths.untouched import untouched

FULL = {1: ((0, 1, 2, 3),), 2: ((0, 1, 2, 3), (0, 1, 2, 3))}


def make_net(residual="ordinary", stages=2, blocks=4):
    torch.manual_seed(0)
    net = ic.models.resnet(4, blocks, stages, in_channels=1, residual=residual)
    for _ in range(3):
        net(torch.randn(16, 1, 8, 8))  # so that statistics and vectors are not the initial ones
    return net.eval()


NETS = {residual: make_net(residual) for residual in ("ordinary", "improper", "proper")}


def alone(net, route, inputs):
    """One route by itself, with nothing but the contract."""
    z = net.stem(inputs)
    outputs = []
    for number, path in enumerate(route):
        if number:
            z = net.transitions[number - 1](z)
        entered = z
        for block in path:
            z = net.stages[number].step(block, z, entered)
        outputs.append(z)
    return outputs, net.head(z)


def perturbed_routes(num_blocks, stages, extra):
    full = (tuple(range(num_blocks)),) * stages
    routes = [full]
    for stage in range(stages):
        families = [
            *paths.early_readouts(num_blocks),
            *paths.dropouts(num_blocks),
            *paths.extra_evaluations(num_blocks, extra),
        ]
        routes += [(*full[:stage], p.path, *full[stage + 1 :]) for p in families]
    return routes


def assert_identical(net, routes, inputs):
    with torch.no_grad():
        for route, outcome in paths.evaluate(net, routes, inputs):
            outputs, logits = alone(net, route, inputs)
            assert torch.equal(outcome.output, logits), route
            assert all(torch.equal(a, b) for a, b in zip(outcome.stage_outputs, outputs, strict=True))


def count_steps(net, routes, inputs):
    calls = 0

    def counting(stage):
        original = stage.step

        def step(*arguments):
            nonlocal calls
            calls += 1
            return original(*arguments)

        return step

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for stage in net.stages:
            patch.setattr(stage, "step", counting(stage))
        outcomes = list(paths.evaluate(net, routes, inputs))
    return calls, outcomes


def distinct_beginnings(routes):
    """All ways to begin a route that end in a block, written out step by step."""
    seen = set()
    for route in routes:
        walked = []
        for stage, path in enumerate(route):
            walked.append((stage, "enter"))
            for block in path:
                walked.append((stage, block))
                seen.add(tuple(walked))
    return len(seen)


def test_families_are_the_papers():
    assert [p.path for p in paths.early_readouts(3)] == [(0,), (0, 1), (0, 1, 2)]
    assert [p.path for p in paths.dropouts(3)] == [(1, 2), (0, 2), (0, 1)]
    assert [p.path for p in paths.extra_evaluations(2, 3)] == [(0, 1), (0, 1, 1), (0, 1, 1, 1), (0, 1, 1, 1, 1)]
    assert [p.position for p in paths.early_readouts(3)] == [1, 2, 3] == [p.position for p in paths.dropouts(3)]
    assert [p.position for p in paths.extra_evaluations(2)] == list(range(17))


@pytest.mark.parametrize("batch", [1, 2, 7, 32])
@pytest.mark.parametrize("residual", NETS)
def test_bit_identical_to_each_path_alone_in_every_batch_size(residual, batch):
    assert_identical(NETS[residual], perturbed_routes(4, 2, 5), torch.randn(batch, 1, 8, 8))


@pytest.mark.parametrize("residual", NETS)
def test_bit_identical_in_every_memory_layout(residual):
    routes = perturbed_routes(4, 2, 3)
    inputs = torch.randn(6, 1, 8, 8)
    assert_identical(NETS[residual], routes, inputs.to(memory_format=torch.channels_last))
    assert_identical(NETS[residual], routes, torch.randn(6, 1, 8, 16)[:, :, :, ::2])
    assert_identical(make_net(residual).to(memory_format=torch.channels_last), routes, inputs)
    assert_identical(make_net(residual).double(), routes, inputs.double())


path = st.lists(st.integers(0, 3), max_size=6).map(tuple)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(sorted(NETS)), st.lists(st.tuples(path, path), min_size=1, max_size=8))
@pytest.mark.medium
def test_any_routes_are_evaluated_as_alone_once_each_with_the_fewest_steps(residual, routes):
    net, inputs = NETS[residual], torch.randn(2, 1, 8, 8)
    assert_identical(net, routes, inputs)
    calls, outcomes = count_steps(net, routes, inputs)
    assert calls == paths.block_applications(routes) == distinct_beginnings(routes)
    assert sorted(route for route, _ in outcomes) == sorted(set(routes))
    assert outcomes[0][0] == routes[0], "the first route given comes first"


def test_the_papers_measurement_takes_the_prefix_trees_minimum():
    routes = perturbed_routes(16, 3, 16)
    # The trunk is 48. Dropping block t < 16 leaves 16 - t blocks, extras are 16 more; then the stages behind:
    # 15 early read-outs, 15 drop-outs (dropping the last is a read-out) and 16 extras, for 32, 16 and 0 blocks.
    stage = sum(16 - t for t in range(1, 16)) + 16
    assert paths.block_applications(routes) == 48 + 3 * stage + 46 * (32 + 16)
    # Path by path: read-outs, drop-outs and k = 0..16, each with the other two stages.
    alone = sum(len(p) for route in perturbed_routes(16, 3, 16)[1:] for p in route)
    assert alone / paths.block_applications(routes) > 2.3


def test_steps_are_counted_on_a_real_net():
    net = NETS["ordinary"]
    routes = perturbed_routes(4, 2, 16)
    calls, _ = count_steps(net, routes, torch.randn(2, 1, 8, 8))
    assert calls == paths.block_applications(routes) < sum(len(p) for route in routes for p in route) / 1.5


def test_no_activation_is_kept_that_no_later_route_needs():
    """Live memory: with a single route nothing is kept, whatever its length."""
    import weakref

    alive = []

    class Block(nn.Module):
        def forward(self, z):
            alive[:] = [reference for reference in alive if reference() is not None]
            assert len(alive) <= 2
            z = z + 1
            alive.append(weakref.ref(z))
            return z

    model = ic.StagedModel(nn.Identity(), [ic.Stage([Block() for _ in range(20)])], [], nn.Identity())
    [(_, outcome)] = paths.evaluate(model, [(tuple(range(20)),)], torch.zeros(1))
    assert outcome.output.item() == 20


class Doubling(nn.Module):
    def forward(self, z):
        return z.mul_(2)


def test_blocks_that_change_their_input_are_refused():
    model = ic.StagedModel(nn.Identity(), [ic.Stage([nn.Identity(), Doubling()])], [], nn.Identity())
    with pytest.raises(ic.InputError, match=r"block 2 of stage 1 \(Doubling\) changes its input in place"):
        list(paths.evaluate(model, [((0, 1),)], torch.ones(2)))
    with torch.inference_mode():  # torch keeps no versions there
        list(paths.evaluate(NETS["ordinary"], [FULL[2]], torch.randn(1, 1, 8, 8)))


@pytest.mark.parametrize(
    "route, says",
    [
        (((0, 1),), "1 paths for 2 stages"),
        (((0, 4), (0,)), "block 4; paths number the blocks of stage 1 from 0 to 3"),
        (((0,), (-1,)), "block -1"),
    ],
)
def test_wrong_routes_are_refused(route, says):
    with pytest.raises(ic.InputError, match=says) as error:
        list(paths.evaluate(NETS["ordinary"], [route], torch.randn(1, 1, 8, 8)))
    assert "\n" not in str(error.value)


def test_no_routes_no_outcomes():
    assert list(paths.evaluate(NETS["ordinary"], [], torch.randn(1, 1, 8, 8))) == []


# The contract itself


def test_verify_passes_for_our_nets_and_names_a_difference():
    inputs = torch.randn(4, 1, 8, 8)
    for residual, net in NETS.items():
        ic.verify(net, net, inputs)
        other = make_net(residual)
        torch.nn.init.constant_(other.head.linear.bias, 3.0)
        with pytest.raises(ic.InputError, match="does not reproduce StagedModel: outputs differ by up to"):
            ic.verify(net, other, inputs)
    with pytest.raises(ic.InputError, match=r"their shapes \(4, 10\) and \(4, 3\)"):
        ic.verify(net, ic.models.resnet(4, 2, 2, 1, classes=3), inputs)


def test_models_without_the_contract_are_refused():
    with pytest.raises(ic.InputError, match="Linear has no stem, stages, transitions, head; wrap it"):
        ic.verify(nn.Linear(2, 2), nn.Linear(2, 2), torch.zeros(1, 2))
    for stages, transitions in (([], []), ([ic.Stage([nn.ReLU()])], [nn.ReLU()])):
        with pytest.raises(ic.InputError, match="stages need"):
            ic.StagedModel(nn.Identity(), stages, transitions, nn.Identity())
    lacking = ic.StagedModel(nn.Identity(), [ic.Stage([])], [], nn.Identity())
    with pytest.raises(ic.InputError, match="stage 1 of StagedModel needs"):
        ic.verify(lacking, lacking, torch.zeros(1))


def test_untouched_restores_modes_buffers_and_random_state_also_after_an_error():
    net = make_net().train()
    net.stages[0].blocks[1].eval()
    modes = [m.training for m in net.modules()]
    buffers = {k: v.clone() for k, v in net.named_buffers()}
    state = torch.get_rng_state()
    with pytest.raises(RuntimeError), untouched(net):
        assert not any(m.training for m in net.modules()) and not torch.is_grad_enabled()
        net.head.bn.running_mean.add_(1)
        torch.randn(3)
        raise RuntimeError
    assert [m.training for m in net.modules()] == modes and torch.is_grad_enabled()
    assert all(torch.equal(buffers[k], v) for k, v in net.named_buffers())
    assert torch.equal(torch.get_rng_state(), state)


def test_further_families_by_hand():
    found = {name: {p.path for p in make(4)} for name, make in paths.FAMILIES.items()}
    assert found["repetition"] == {(0, 0, 1, 2, 3), (0, 1, 1, 2, 3), (0, 1, 2, 2, 3), (0, 1, 2, 3, 3)}
    assert found["swap"] == {(1, 0, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2)}
    assert found["reversal"] == {(0, 1, 3, 2), (0, 3, 2, 1), (3, 2, 1, 0)}
    assert found["pair drop-out"] == {(2, 3), (1, 3), (1, 2), (0, 3), (0, 2), (0, 1)}
    assert found["run drop-out"] == {(2, 3), (0, 3), (0, 1), (3,), (0,), ()}
    assert all(sorted(path) == [0, 1, 2, 3] for path in found["shuffle"])
    assert paths.shuffles(9, seed=1) == paths.shuffles(9, seed=1) != paths.shuffles(9, seed=2)
    assert all(p.family == name for name, make in paths.FAMILIES.items() for p in make(3))
    of_one_block = {name: {p.path for p in make(1)} for name, make in paths.FAMILIES.items()}
    assert of_one_block["early read-out"] == {(0,)} and of_one_block["drop-out"] == {()}
    assert of_one_block["extra evaluation"] == {(0,) * (1 + extra) for extra in range(17)}
    assert of_one_block["repetition"] == {(0, 0)}
    moving = {"swap", "reversal", "pair drop-out", "run drop-out"}
    assert not any(of_one_block[name] for name in moving), "one block has nothing to change places with"


# Families of users


def halves(num_blocks):
    return [(1, range(num_blocks // 2)), (2, range(num_blocks // 2, num_blocks))]


HALVES = paths.Family(name="halves", make=halves, title="Half a stage", axis="which half")


def test_a_users_family_is_measured_and_drawn(registries, tmp_path):
    net, images = NETS["ordinary"], torch.randn(20, 1, 8, 8)
    batches = [(images, net(images).argmax(1))]
    with pytest.raises(ic.InputError, match="families='halves' is unknown; use a list of 'early read-out', "):
        ic.measure(net, batches, families=["halves"])
    assert paths.register(HALVES) is paths.FAMILIES["halves"] is HALVES
    report = ic.measure(net, batches, families=["halves"], resamples=0)
    errors = report.curves.query("metric == 'error' and perturbation == 'halves' and stage == 1")
    assert errors.path.tolist() == [(0, 1), (2, 3)] and errors.position.tolist() == [1, 2]
    for path, value in zip(errors.path, errors.value, strict=True):
        _, logits = alone(net, (FULL[1][0], path), images)
        assert value == pytest.approx((logits.argmax(1) != batches[0][1]).float().mean().item())
    drawn = report.plot(tmp_path / "halves.png").axes[3]
    assert (drawn.get_title(), drawn.get_xlabel()) == ("Half a stage", "which half")
    assert drawn.lines[1].get_ydata().tolist() == errors.value.tolist()


def test_a_report_is_drawn_where_its_family_is_unknown(registries, tmp_path):
    paths.register(HALVES)
    net = NETS["ordinary"]
    ic.measure(net, [torch.randn(8, 1, 8, 8)], against="predictions", families=["halves"]).save(tmp_path / "r.json")
    del paths.FAMILIES["halves"]
    drawn = ic.Report.load(tmp_path / "r.json").plot().axes[:4]
    assert [axes.get_title() for axes in drawn] == ["Convergence", "Recurrence", "Divergence", "halves"]


MODULE = """
import iterconv as ic

def make():
    ic.paths.register(ic.paths.Family(name="cycle", make=lambda n: [(1, (*range(1, n), 0))], title="Cycle", axis="t"))
    return ic.models.resnet(4, 3, 1, in_channels=1)
"""


def test_a_family_of_the_models_module_is_known_to_the_command_line(registries, tmp_path, monkeypatch, capsys):
    (tmp_path / "users_family.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    words = ["measure", "users_family:make", "--data", "digits", "--out", "r.json", "--resamples", "0", "--families"]
    assert main([*words, "jump"]) == 2
    says = "iterconv: --families jump is unknown; use a list of 'early read-out', "
    assert says in capsys.readouterr().err and not (tmp_path / "r.json").exists()
    assert main([*words, "cycle"]) == 0
    curves = ic.Report.load("r.json").curves
    assert set(curves[curves.perturbation == "cycle"].path) == {(1, 2, 0)}


def test_families_that_can_not_be_registered(registries):
    for wrong, says in (
        (halves, "is not an instance of iterconv.paths.families.Family; pass one"),
        (paths.Family(name="swap", make=halves, title="", axis=""), "the Family 'swap' is iterconv's own"),
    ):
        with pytest.raises(ic.InputError, match=says) as error:
            paths.register(wrong)
        assert "\n" not in str(error.value)
    assert "halves" not in paths.FAMILIES and paths.FAMILIES["swap"] is paths.swaps
    paths.register(HALVES)
    again = paths.register(paths.Family(name="halves", make=halves, title="Halves", axis="half"))
    assert paths.FAMILIES["halves"] is again, "a notebook's cell may be run again"


def test_paths_of_blocks_that_a_stage_lacks_are_refused(registries):
    paths.register(paths.Family(name="beyond", make=lambda count: [(1, (count,))], title="", axis=""))
    with pytest.raises(ic.InputError, match="block 4; paths number the blocks of stage 1 from 0 to 3"):
        ic.measure(NETS["ordinary"], [torch.randn(2, 1, 8, 8)], against="predictions", families=("beyond",))


def test_a_module_satisfies_the_contract_however_its_parts_are_kept():
    with pytest.raises(AttributeError):  # isinstance with a protocol looks there from Python 3.12 on
        inspect.getattr_static(NETS["ordinary"], "stem")
    assert paths.is_staged(NETS["ordinary"])
    assert not paths.is_staged(nn.Linear(1, 1))
