"""``Tied``: a recurrent surrogate, and how it came about."""

import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from iterconv.errors import InputError
from iterconv.files import to_json, write_atomically, writing

FORMAT = "iterconv tied 1"


@dataclass(frozen=True, eq=False)
class Tied:
    """A model whose phases are one block each; ``iterconv.tie`` makes it."""

    model: nn.Module
    """A plain module of the same class as the original, whose state it also has. The blocks of a phase share their
    parameters, except in models of Hugging Face, which can't be saved so: there they have equal ones."""
    phases: pd.DataFrame
    """One row for each phase: ``stage``, ``phase``, ``start``, ``end`` and ``cost``, see ``find_phases``."""
    history: pd.DataFrame
    """One row for each step: ``step`` (from 0, within its part), ``part`` ("teacher forcing", "free-running" or "task")
    and ``loss``: the mean of ``block_errors``, or the task's loss."""
    options: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model, the phases and the history to a folder.

        Models of Hugging Face are saved by their own ``save_pretrained``. Of all others, the state is saved as
        ``weights.pt``, which ``torch.load`` reads and the original model's class takes by ``load_state_dict``. Phases,
        history and options are in ``tied.json``.

        Args:
            path: The folder, which is made if need be.

        Raises:
            InputError: If the path is a file or can't be written.
        """
        path = Path(path)
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file; name a folder")
        tables = {"phases": self.phases.to_dict("list"), "history": self.history.to_dict("list")}
        with writing(path):
            if hasattr(self.model, "save_pretrained"):
                self.model.save_pretrained(path)  # type: ignore[operator]
            else:
                contents = io.BytesIO()
                torch.save(self.model.state_dict(), contents)  # tensors that share a storage are written once
                write_atomically(path / "weights.pt", contents.getvalue())
            write_atomically(path / "tied.json", to_json({"format": FORMAT, "options": self.options, **tables}))
