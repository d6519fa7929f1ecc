"""Execute the notebooks of the documentation, and keep what they show: `make notebooks`."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))
SETUP = """import warnings

import torch
from iterconv.errors import InputError
from iterconv.zoo.libraries import library

torch.set_num_threads(1)
warnings.filterwarnings("ignore", "IProgress not found")
try:
    library("torchvision")  # of which not every build fits every build of torch
except InputError:
    pass"""
"""What is executed before the first cell, and is not kept."""


def execute(path: Path, timeout: int = 300) -> nbformat.NotebookNode:
    """Execute a notebook in its folder.

    Args:
        path: The notebook.
        timeout: The seconds that a cell may take.

    Returns:
        The notebook with its outputs, of which nothing depends on the time.

    Raises:
        CellExecutionError: If a cell fails.
    """
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    NotebookClient(notebook, timeout=timeout, resources={"metadata": {"path": str(path.parent)}}).execute()
    del notebook.cells[0]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        if cell.cell_type == "code":
            cell.metadata, cell.execution_count = nbformat.NotebookNode(), None
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = None
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    return notebook


if __name__ == "__main__":
    for each in NOTEBOOKS:
        nbformat.write(execute(each), each)
