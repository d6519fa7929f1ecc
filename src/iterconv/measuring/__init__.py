"""Measurements of one model: its indices, where it settles, the blocks that it can do without, their similarity."""

from iterconv.measuring.damping import DampingSweep as DampingSweep
from iterconv.measuring.damping import sweep_damping as sweep_damping
from iterconv.measuring.depth import Depth as Depth
from iterconv.measuring.depth import depth as depth
from iterconv.measuring.exit_frontier import Exits as Exits
from iterconv.measuring.exits import exits as exits
from iterconv.measuring.frontier import Plan as Plan
from iterconv.measuring.influence import influence as influence
from iterconv.measuring.measurement import measure as measure
from iterconv.measuring.planning import plan as plan
from iterconv.measuring.report import Report as Report
from iterconv.measuring.settled import Settling as Settling
from iterconv.measuring.settling import settle as settle
from iterconv.measuring.similarity import similarity as similarity
from iterconv.measuring.spans import SpanMap as SpanMap
from iterconv.measuring.spans import spans as spans
