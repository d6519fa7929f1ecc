"""The HTML report of studies: one file that needs nothing else."""

from iterconv.report.html import render as render

__all__ = ["render"]
