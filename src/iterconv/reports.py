"""The report object that ``measure`` returns: two tables, a picture, a file."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from iterconv.errors import InputError, require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMAT = "iterconv report 1"
_KEY = b"iterconv"


@dataclass(frozen=True, eq=False)
class Report:
    """What was measured on one model."""

    curves: pd.DataFrame
    """Columns stage, perturbation, position, path, metric, value, low, high, n: one row a point of a curve."""
    indices: pd.DataFrame
    """Columns stage (a number from 0, or "mean"), index, value, low, high, defined, reason."""
    options: dict[str, Any]
    """How it was measured: reference, chance, examples, bootstrap, block applications."""

    @property
    def intact_error(self) -> float:
        """Of the unperturbed model."""
        curves = self.curves[(self.curves.metric == "error") & (self.curves.perturbation == "extra evaluation")]
        return float(curves[curves.position == 0].value.iloc[0])

    def plot(self, path: str | os.PathLike[str] | None = None) -> "Figure":
        """Draw the error along each family of perturbations, one line a stage, with the indices.

        Args:
            path: Where to save the picture; the suffix (.png, .svg, .pdf) names the format.

        Returns:
            The matplotlib figure.

        Raises:
            InputError: If matplotlib is missing, the suffix is no picture format, or the file can't be written.
        """
        require("matplotlib", "drawing")
        from iterconv.figures.curves import draw_report

        figure = draw_report(self)
        if path is not None:
            try:
                figure.savefig(path)
            except ValueError as problem:
                raise InputError(f"can't draw to {path}: {problem}; use .png, .svg or .pdf") from None
            except OSError as problem:
                raise InputError(
                    f"can't draw to {path} ({problem.strerror}); name a file in a folder that is"
                ) from None
        return figure

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report to one file, whole or not at all.

        Args:
            path: A name that ends in .parquet (needs pyarrow) or .json.

        Raises:
            InputError: If the suffix is another one or pyarrow is missing.
        """
        path = Path(path)
        contents = self._to_parquet() if known_suffix(path) == ".parquet" else self._to_json()
        write_atomically(path, contents)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Report":
        """Read a report that ``save`` wrote.

        Args:
            path: The file, .parquet or .json.

        Returns:
            The report.

        Raises:
            InputError: If the file is missing, truncated, or not a report.
        """
        path = Path(path)
        try:
            if known_suffix(path) == ".parquet":
                return cls._from_parquet(path)
            return cls._from_dict(json.loads(path.read_text()))
        except FileNotFoundError:
            raise InputError(f"there is no report at {path}; `report.save` writes one") from None
        except (OSError, ValueError, KeyError, TypeError) as problem:
            reason = " ".join(str(problem).split())[:200]
            raise InputError(
                f"{path} is not a readable report ({reason}); delete it and give the command that wrote it again"
            ) from None

    def _to_json(self) -> bytes:
        head = {"format": _FORMAT, "options": self.options, "indices": self.indices.to_dict("list")}
        return json.dumps({**head, "curves": self.curves.to_dict("list")}, indent=1).encode()

    def _to_parquet(self) -> bytes:
        arrow, parquet = _pyarrow()
        curves = self.curves.assign(path=self.curves["path"].map(list))
        table = arrow.Table.from_pandas(curves, preserve_index=False)
        head = {"format": _FORMAT, "options": self.options, "indices": self.indices.to_dict("list")}
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: json.dumps(head)})
        sink = arrow.BufferOutputStream()
        parquet.write_table(table, sink)
        return bytes(sink.getvalue().to_pybytes())

    @classmethod
    def _from_parquet(cls, path: Path) -> "Report":
        _, parquet = _pyarrow()
        table = parquet.read_table(path)
        head = json.loads((table.schema.metadata or {})[_KEY])
        return cls._from_dict({**head, "curves": table.to_pandas()})

    @classmethod
    def _from_dict(cls, contents: dict[str, Any]) -> "Report":
        if contents["format"] != _FORMAT:
            raise ValueError(f"format {contents['format']!r}")
        curves = pd.DataFrame(contents["curves"])
        curves["path"] = [tuple(int(block) for block in path) for path in curves["path"]]
        indices = pd.DataFrame(contents["indices"]).astype({"stage": object})
        return cls(curves, indices, contents["options"])


def write_atomically(path: Path, contents: bytes) -> None:
    """Write a file so that it appears whole or not at all, also if the machine dies.

    Args:
        path: Its folder is made if need be.
        contents: The bytes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def known_suffix(path: Path) -> str:
    """The suffix of a report's file, or ``InputError`` for one that no report is written in."""
    if path.suffix not in (".parquet", ".json"):
        raise InputError(f"{path} has no known format; end the name in .parquet or .json")
    return path.suffix


def _pyarrow() -> tuple[Any, Any]:
    purpose = "a report in Parquet (JSON does not)"
    return require("pyarrow", purpose), require("pyarrow.parquet", purpose)
