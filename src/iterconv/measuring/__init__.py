"""Measurements of one model: its indices, the blocks that it can do without, and the similarity of its blocks."""

from iterconv.measuring.frontier import Plan as Plan
from iterconv.measuring.influence import influence as influence
from iterconv.measuring.measurement import measure as measure
from iterconv.measuring.planning import plan as plan
from iterconv.measuring.report import Report as Report
from iterconv.measuring.similarity import similarity as similarity
from iterconv.measuring.spans import SpanMap as SpanMap
from iterconv.measuring.spans import spans as spans
