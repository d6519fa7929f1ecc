"""Questions about one model: its indices, what can be left out of it, how alike its blocks are."""

from iterconv.measuring.measurement import measure as measure
from iterconv.measuring.planning import Plan as Plan
from iterconv.measuring.planning import plan as plan
from iterconv.measuring.report import Report as Report
from iterconv.measuring.similarity import similarity as similarity
