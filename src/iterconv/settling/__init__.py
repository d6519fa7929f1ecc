"""Depth as an instrument: repeated blocks, read-outs after each block, rules for stopping early."""

from iterconv.settling.damping import DampingSweep as DampingSweep
from iterconv.settling.damping import sweep_damping as sweep_damping
from iterconv.settling.depth import Depth as Depth
from iterconv.settling.depth import depth as depth
from iterconv.settling.exit_frontier import Exits as Exits
from iterconv.settling.exits import exits as exits
from iterconv.settling.settled import Settling as Settling
from iterconv.settling.settling import settle as settle
