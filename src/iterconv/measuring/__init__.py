"""Measurements of one model: its indices, and how alike its blocks are."""

from iterconv.measuring.measurement import measure as measure
from iterconv.measuring.report import Report as Report
from iterconv.measuring.similarity import similarity as similarity
