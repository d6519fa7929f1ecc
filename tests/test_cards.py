"""Model cards of runs, and trained networks that are opened without their data."""

import json
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

import iterconv as ic
from iterconv.cli.main import COMMANDS
from iterconv.cli.parsing import parse
from iterconv.files import to_safetensors, write_atomically
from iterconv.measuring.report import Report
from iterconv.training.config import RunConfig
from iterconv.training.run import complete, open_run

RUN = RunConfig(
    **{"width": 8, "blocks": 2, "stages": 1, "epochs": 4, "samples": 500, "evaluation_samples": 100},
    **{"coupling": 0.5, "residual": "improper", "lipschitz": 0.8},
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    complete(RUN, folder)
    return folder


def copy(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "copy"))


@pytest.mark.medium
def test_a_trained_network_opens_without_its_data(trained, monkeypatch):
    network, dataset, _ = open_run(trained)
    monkeypatch.setattr("iterconv.data.load", lambda *_, **__: pytest.fail("no data are needed"))
    opened = ic.models.load(str(trained))
    assert not opened.training and not any(module.training for module in opened.modules())
    inputs, _ = next(iter(dataset.batches(dataset.test)))
    with torch.no_grad():
        assert torch.equal(opened(inputs), network.eval()(inputs))
    assert not opened.stages[0].proper and opened.stages[0].lipschitz == 0.8


@pytest.mark.medium
def test_the_card_tells_what_the_files_hold(trained):
    card = (trained / "README.md").read_text()
    result = json.loads((trained / "result.json").read_text())
    assert f"| test error | {result['test_error']:.2%} (guessing: 90.00%) |" in card
    indices = Report.load(trained / "report.parquet").indices
    assert indices["defined"].any()
    for row in indices[indices["stage"] == "mean"].to_dict("records"):
        title = ic.indices.INDICES[row["index"]].title
        value = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row["defined"] else "undefined"
        assert f"| {title}, mean over stages | {value} |" in card
    assert "1 stage of 2 blocks, of width 8" in card and "An improperly convergent residual network" in card
    assert "500 images of UCI digits for 4 epochs." in card
    [command] = [line for line in card.splitlines() if line.startswith("`iterconv train")]
    assert parse(COMMANDS, shlex.split(command.split("`")[1])[1:]).run.name == RUN.name


@pytest.mark.medium
def test_the_code_of_the_card_runs_and_finds_the_same(trained):
    card = (trained / "README.md").read_text()
    [code] = [part.split("```")[0] for part in card.split("```python\n")[1:]]
    names = {}
    exec(compile(code.replace("FOLDER", str(trained)), "README.md", "exec"), names)
    pd.testing.assert_frame_equal(names["report"].curves, Report.load(trained / "report.parquet").curves)
    data = names["data"]
    mean, std = (f"({values[0]:.6f})" for values in (data.mean.tolist(), data.std.tolist()))
    assert mean in card and std in card


@pytest.mark.medium
def test_programs_read_the_card_as_one_of_the_hub(trained):
    cards = pytest.importorskip("huggingface_hub").ModelCard
    found = cards.load(trained / "README.md").data
    [result] = found.eval_results
    assert found.library_name == "iterconv" and result.dataset_name == "UCI digits"
    assert result.metric_value == json.loads((trained / "result.json").read_text())["test_error"]


def refused(folder, match):
    with pytest.raises(ic.InputError, match=match) as error:
        ic.models.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.medium
def test_what_is_no_finished_run_is_refused_in_a_line(trained, tmp_path):
    refused(tmp_path, "holds no run .there is no config.json in it.; pass the folder that `iterconv train` made")
    refused(tmp_path / "nowhere", "holds no run")
    folder = copy(trained, tmp_path)
    config = (folder / "config.json").read_text()
    (folder / "config.json").write_text(json.dumps({"width": 24, "blocks": 16, "bits": 24}))
    refused(folder, "is not a run of `iterconv train`")
    (folder / "config.json").write_text(config.replace('"width": 8', '"width": 5'))
    refused(folder, "config.json is damaged .its checksum does not match")
    values = {key: value for key, value in json.loads(config).items() if key != "seal"}
    for change in ({"width": 5}, {"residual": "strange"}, {"lipschitz": -1}, {"residual": None}):
        (folder / "config.json").write_text(json.dumps({**values, **change}))
        refused(folder, "best.safetensors holds no network as .*config.json describes it; train it again")
    (folder / "config.json").write_text(json.dumps(values))
    write_atomically(folder / "best.safetensors", to_safetensors({"x": torch.ones(1)}))
    refused(folder, "best.safetensors holds no network as")
    (folder / "best.safetensors").unlink()
    refused(folder, "there are no weights at .*; finish the run with `iterconv train`")


@pytest.mark.medium
def test_runs_of_earlier_versions_have_no_card_and_open_all_the_same(trained, tmp_path):
    folder = copy(trained, tmp_path)
    (folder / "README.md").unlink()
    assert ic.models.load(folder).stages[0].lipschitz == 0.8
    assert complete(RUN, folder)["name"] == RUN.name, "it is finished"
