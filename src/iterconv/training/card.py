"""The model card of a run: what the network is, what it was trained on, how good it is, how it is opened."""

from typing import Any

import pandas as pd

from iterconv import data
from iterconv.data.known import KNOWN
from iterconv.errors import require
from iterconv.indices import INDICES
from iterconv.measuring.report import Report
from iterconv.training.command import command_of_run
from iterconv.training.config import RunConfig

CARD = "README.md"
"""The file of the card, as the Hugging Face hub has it."""

_KINDS = {
    "ordinary": "An ordinary residual network",
    "improper": "An improperly convergent residual network (its residual functions are Lipschitz-bounded)",
    "proper": "A properly convergent residual network (each stage is a contraction)",
}
_TEXT = """---
{head}---

# {name}

{what}

| measured on {examples:,} test images | |
| --- | --- |
| test error | {error:.2%} (guessing: {chance:.2%}) |
{indices}

Intervals are from the bootstrap over test images. The weights are those of the epoch with the lowest error on the split
“{selection}”. It is one network of one seed, and networks of other seeds differ.

## Open it

```python
import iterconv as ic

net = ic.models.load("FOLDER")  # the folder of this file; nothing in it is executed
data = ic.data.load({load})
report = ic.measure(net, data.batches(data.test))
```

Inputs have the shape (n, {channels}, {height}, {width}): levels from 0 to 1, less the mean of the channel ({mean}),
divided by its standard deviation ({std}), as `data.batches` yields them. The outputs are {classes} logits.

## Training

`{command}` trains and measures it again.

| option | value |
| --- | --- |
{recipe}
"""


def make_card(config: RunConfig, result: dict[str, Any], report: Report, dataset: data.Data) -> str:
    """Write the model card of a trained and measured run, in the format of the Hugging Face hub.

    Args:
        config: The run.
        result: The contents of its ``result.json``.
        report: Its measurement.
        dataset: Its data.

    Returns:
        The card in Markdown; equal runs have equal cards.
    """
    run = config.resolved()
    height, width = dataset.image_size
    mean, std = (", ".join(f"{value:.6f}" for value in values.tolist()) for values in (dataset.mean, dataset.std))
    return _TEXT.format(
        head=require("yaml", "model cards").safe_dump(_head(run, result), sort_keys=False),
        name=run.name,
        what=_describe(run, result),
        examples=result["test_examples"],
        error=result["test_error"],
        chance=result["chance"],
        indices="\n".join(_index_row(row) for row in _means(report).to_dict("records")),
        selection=run.selection,
        load=", ".join([f'"{run.data}"', *(f"{name}={value}" for name, value in _subset(run).items())]),
        **{"channels": dataset.in_channels, "height": height, "width": width},
        **{"mean": mean, "std": std, "classes": dataset.classes},
        command=command_of_run(config.to_dict()),
        recipe="\n".join(f"| {name} | {value} |" for name, value in run.to_dict().items()),
    )


def _subset(run: RunConfig) -> dict[str, int]:
    """Return the options of ``iterconv.data.load`` that the run has."""
    values = {"samples": run.samples, "evaluation_samples": run.evaluation_samples}
    return {name: value for name, value in values.items() if value is not None}


def _head(run: RunConfig, result: dict[str, Any]) -> dict[str, Any]:
    """Return what programs read: the library, the data set and the error."""
    known = KNOWN.get(run.data)
    dataset = {"name": known.title if known else run.data, "type": (known and known.hub) or run.data}
    metric = {"type": "error", "name": "test error", "value": result["test_error"]}
    task = {"type": "image-classification"}
    return {
        "library_name": "iterconv",
        "tags": ["resnet", "iterative-computation", "image-classification"],
        **({"datasets": [known.hub]} if known and known.hub else {}),
        "model-index": [{"name": run.name, "results": [{"task": task, "dataset": dataset, "metrics": [metric]}]}],
    }


def _describe(run: RunConfig, result: dict[str, Any]) -> str:
    title = KNOWN[run.data].title if run.data in KNOWN else run.data
    some = f"{run.samples:,} images of " if run.samples else ""
    stages = f"{run.stages} stage{'s' * (run.stages != 1)} of {run.blocks} block{'s' * (run.blocks != 1)}"
    coupled = (
        f"Gradients of the blocks of a stage were coupled with strength {run.coupling:g} ({run.kernel})."
        if run.coupling
        else "Gradients were not coupled."
    )
    return (
        f"{_KINDS[run.residual]}: {stages}, of width {run.width}, with {result['raw']:,} parameters, trained on "
        f"{some}{title} for {run.epochs} epoch{'s' * (run.epochs != 1)}. {coupled} The effective number of parameters "
        f"is {result['effective']:,.0f}."
    )


def _means(report: Report) -> pd.DataFrame:
    """Return the means of the indices over the stages."""
    return report.indices[report.indices["stage"] == "mean"]


def _index_row(row: dict[str, Any]) -> str:
    title = INDICES[row["index"]].title if row["index"] in INDICES else row["index"]
    value = f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" if row["defined"] else "undefined"
    return f"| {title}, mean over stages | {value} |"
