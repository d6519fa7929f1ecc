"""`iterconv controls`: it passes where the instruments are right, and fails where one of them is broken."""

import dataclasses
import json
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import iterconv as ic
from commands import refused
from iterconv.cli.main import main
from iterconv.controls import CONTROLS, Control, UnavailableError, closed_forms, examine, prefix_sums
from iterconv.models.cellular_automaton import CellBlock, load_cellular_automaton

CLOSED = ["contraction", "rotation", "expansion"]

MODULE = """
import iterconv as ic
from iterconv.controls import Control, UnavailableError, check_equal, check_range_of, register

def lacking():
    raise UnavailableError("the moon is not at hand")

def broken():
    raise ValueError("no such luck")

register(Control(name="right", statement="It is.", examine=lambda: [check_equal("sum", 1 + 1, 2)]))
register(Control(name="wrong", statement="It is not.", examine=lambda: [check_range_of("sum", [1, 3], 0, 2)]))
register(Control(name="nan", statement="It is none.", examine=lambda: [check_range_of("sum", float("nan"), 0, 2)]))
register(Control(name="broken", statement="It raises.", examine=broken))
register(Control(name="empty", statement="It checks nothing.", examine=list))
register(Control(name="lacking", statement="It is not there.", examine=lacking))
"""


@pytest.fixture
def own(tmp_path, monkeypatch, registries):
    (tmp_path / "own_controls.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield ["--module", "own_controls"]
    sys.modules.pop("own_controls", None)


@pytest.mark.medium
def test_the_closed_forms_pass_and_are_written(tmp_path, capsys):
    out = tmp_path / "controls.csv"
    assert main(["controls", *CLOSED, "--out", str(out)]) == 0
    table = pd.read_csv(out)
    assert list(dict.fromkeys(table.control)) == CLOSED and table.passed.all()
    assert list(table.columns) == ["control", "instrument", "expected", "found", "passed"]
    growth = table[table.instrument == "growth rates"].found.astype(str)
    assert growth.tolist() == ["0.6", "1", "1.1"]
    assert table[table.instrument == "verdicts"].found.tolist() == ["settles", "cycles", "diverges"]
    assert "3 controls passed, 0 failed, 0 skipped" in capsys.readouterr().out


def test_the_closed_form_of_states_is_what_applications_lead_to():
    matrix = closed_forms.make_matrix(1.1)
    assert np.abs(np.linalg.eigvals(matrix.numpy())) == pytest.approx([1.1, 1.1])
    x = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).numpy()
    z = x
    for count in range(1, 6):
        z = z @ matrix.numpy().T + x
        assert closed_forms._states(matrix.numpy(), x, count) == pytest.approx(z)


def spoilt_settle(*arguments, **options):
    found = ic.settle(*arguments, **options)
    found.steps["growth"] *= 1.02
    return found


def spoilt_verdicts(*arguments, **options):
    found = ic.settle(*arguments, **options)
    found.examples.loc[0, "verdict"] = "drifts"
    return found


def spoilt_measure(*arguments, **options):
    found = ic.measure(*arguments, **options)
    found.indices["value"] += 1e-6
    return found


def spoilt_depth(*arguments, **options):
    found = ic.depth(*arguments, **options)
    found.curve.loc[3, "error"] += 0.005
    return found


def spoilt_plan(*arguments, **options):
    found = ic.plan(*arguments, **options)
    found.frontier.loc[2, "error"] += 0.01
    return found


def failing_plan(*arguments, **options):
    raise ZeroDivisionError("a bug")


@pytest.mark.parametrize(
    "instrument, spoilt, rows",
    [
        ("settle", spoilt_settle, {"growth rates"}),
        ("settle", spoilt_verdicts, {"verdicts"}),
        ("measure", spoilt_measure, {"convergence", "recurrence", "divergence"}),
        ("depth", spoilt_depth, {"depth, off by"}),
        ("plan", spoilt_plan, {"plan, off by"}),
        ("plan", failing_plan, {"control"}),
    ],
)
def test_a_broken_instrument_fails_the_command(monkeypatch, tmp_path, capsys, instrument, spoilt, rows):
    monkeypatch.setattr(closed_forms, instrument, spoilt)
    assert main(["controls", "contraction", "--out", str(tmp_path / "t.csv")]) == 1
    table = pd.read_csv(tmp_path / "t.csv")
    assert set(table[~table.passed].instrument) == rows
    printed = capsys.readouterr().out
    assert "contraction: FAILED" in printed and "1 failed: contraction, 0 skipped" in printed


def test_a_subject_that_is_not_what_it_should_be_fails():
    wrong = dataclasses.replace(CONTROLS["contraction"], examine=lambda: closed_forms.examine_linear(1.05, "settles"))
    outcome = examine(wrong)
    assert not outcome.passed and [check.instrument for check in outcome.checks if not check.passed] == ["verdicts"]


def naive_sums(bits, iterations):
    """Every sum anew from the bit at its place and the sum to its left, which starts at 0."""
    sums = [0] * len(bits)
    for _ in range(iterations):
        sums = [bit ^ left for bit, left in zip(bits, [0, *sums], strict=False)]
    return sums


@pytest.mark.parametrize("iterations", [1, 5, 12])
def test_the_rule_for_prefix_sums_is_that_of_the_closed_form(iterations):
    net = prefix_sums.make_rule()
    bits = torch.randint(0, 2, (40, 9), generator=torch.Generator().manual_seed(0))
    bits[0] = 0
    z = start = net.stem((bits.float() - 0.5).unsqueeze(1))
    for index in range(iterations):
        z = net.stages[0].step(index, z, start)
    found = (net.head(z) > 0).long().tolist()
    assert found == [naive_sums(string, iterations) for string in bits.tolist()]
    wrong = [sums != (bits.cumsum(1) % 2)[number].tolist() for number, sums in enumerate(found)]
    assert prefix_sums.is_wrong(bits.bool().numpy(), iterations).tolist() == wrong


@pytest.mark.medium
def test_prefix_sums_pass_and_a_rule_that_is_not_theirs_fails(monkeypatch, capsys):
    assert main(["controls", "prefix sums"]) == 0
    right = prefix_sums._write_rule

    def forgetful(block):
        right(block)
        block.enter.weight *= 0.9  # what is carried on, and so the sum, fades

    monkeypatch.setattr(prefix_sums, "_write_rule", forgetful)
    monkeypatch.setattr(prefix_sums, "LENGTHS", (24,))
    assert main(["controls", "prefix sums"]) == 1
    printed = capsys.readouterr().out
    assert "1 controls passed, 0 failed" in printed and "1 failed: prefix sums" in printed


def test_controls_of_ones_own(own, capsys):
    assert main(["controls", *own, "right", "lacking"]) == 0
    printed = capsys.readouterr().out
    assert "1 controls passed, 0 failed, 1 skipped" in printed
    assert "lacking: skipped, since the moon is not at hand" in printed
    assert main(["controls", "right", "wrong", "nan", "broken", "empty", "lacking", "--json"]) == 1
    captured = capsys.readouterr()
    records = {record["control"]: record for record in map(json.loads, captured.out.splitlines())}
    assert {name: record["passed"] for name, record in records.items()} == {
        **dict.fromkeys(("wrong", "nan", "broken", "empty"), False),
        **{"right": True, "lacking": None},
    }
    assert records["wrong"]["checks"] == [
        {"instrument": "sum", "expected": "0 to 2", "found": "1 to 3", "passed": False}
    ]
    assert records["broken"]["checks"][0]["found"] == "ValueError: no such luck"
    assert records["lacking"]["skipped"] == "the moon is not at hand" and not records["lacking"]["checks"]
    assert "4 failed: wrong, nan, broken, empty" in captured.err


@pytest.mark.parametrize(
    "arguments, says",
    [
        (["contracton"], "there is no control 'contracton'; did you mean 'contraction'?"),
        (["--out", "x.json"], "--out x.json does not name a table; let it end in .csv"),
        (["--out", "/proc/x.csv"], "can't write to /proc/x.csv"),
        (["--module", "no_such"], "--module no_such: importing it raised ModuleNotFoundError"),
    ],
)
def test_bad_input_gets_one_line(capsys, arguments, says):
    assert says in refused(capsys, "controls", *arguments)


def test_what_is_no_control_is_refused():
    with pytest.raises(ic.InputError, match="'rotation' is iterconv's own"):
        ic.controls.register(Control(name="rotation", statement="", examine=list))
    with pytest.raises(ic.InputError, match=r"cost=0 is not in \(0, inf\)"):
        Control(name="free", statement="", examine=list, cost=0)
    with pytest.raises(ic.InputError, match="the control 'odd' returned int; let it return checks"):
        examine(Control(name="odd", statement="", examine=lambda: [1]))


def test_the_automaton_is_skipped_with_a_line_where_it_is_not_at_hand(monkeypatch, tmp_path):
    monkeypatch.delenv("ITERCONV_DATA", raising=False)
    with pytest.raises(UnavailableError, match="ITERCONV_DATA is not set"):
        CONTROLS["automaton"].examine()
    monkeypatch.setenv("ITERCONV_DATA", str(tmp_path))
    outcome = examine(CONTROLS["automaton, whole steps"])
    assert outcome.skipped == f"{tmp_path}/pretrained/mnist-ca.safetensors is not there" and outcome.passed


def make_weights(path):
    torch.manual_seed(0)
    tensors = {f"block.{name}": tensor.clone() for name, tensor in CellBlock(1.0).state_dict().items()}
    save_file(tensors, path)
    return {name: tensor.double().numpy() for name, tensor in tensors.items()}


def test_the_automaton_is_that_of_its_formula(tmp_path):
    """A naive evaluation, pixel by pixel."""
    w = make_weights(tmp_path / "w.safetensors")
    model = load_cellular_automaton(tmp_path / "w.safetensors", steps=2, fire=0.5).double()
    image = torch.rand(1, 1, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image[0, 0, 1, 2] = 0.05
    z = np.zeros((20, 4, 5))
    z[0] = image[0, 0].numpy()
    alive = z[0] > 0.1
    for _ in range(2):
        padded = np.pad(z, ((0, 0), (1, 1), (1, 1)))
        new = z.copy()
        for row, column in zip(*np.nonzero(alive), strict=True):
            around = padded[:, row : row + 3, column : column + 3]
            first = np.maximum((w["block.perceive.weight"] * around).sum((1, 2, 3)) + w["block.perceive.bias"], 0)
            second = np.maximum(w["block.hidden.weight"][:, :, 0, 0] @ first + w["block.hidden.bias"], 0)
            new[1:, row, column] += 0.5 * (w["block.out.weight"][:, :, 0, 0] @ second + w["block.out.bias"])
        z = new
    with torch.no_grad():
        assert model(image)[0].numpy() == pytest.approx(z[-10:][:, alive].mean(1))
        assert torch.equal(model(0 * image), torch.zeros(1, 10).double()), "no pixel takes part"


def test_other_weights_are_refused(tmp_path):
    with pytest.raises(ic.InputError, match="there are no weights at"):
        load_cellular_automaton(tmp_path / "no.safetensors")
    save_file({"block.out.bias": torch.zeros(3)}, tmp_path / "w.safetensors")
    with pytest.raises(ic.InputError, match="holds no weights of the automaton"):
        load_cellular_automaton(tmp_path / "w.safetensors")
    make_weights(tmp_path / "w.safetensors")
    for option in ({"fire": 0}, {"fire": 1.5}, {"steps": 0}):
        with pytest.raises(ic.InputError, match=str(*option)):
            load_cellular_automaton(tmp_path / "w.safetensors", **option)


@pytest.mark.medium
def test_the_algorithm_of_figure_1_passes():
    outcome = examine(CONTROLS["algorithm"])
    assert outcome.passed and len(outcome.checks) == 9


@pytest.mark.extended
def test_all_controls_pass(capsys):
    assert main(["controls"]) == 0
    assert " 0 failed" in capsys.readouterr().out
