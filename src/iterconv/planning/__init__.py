"""The blocks that a model can do without, and those that are worth repeating."""

from iterconv.planning.frontier import Plan as Plan
from iterconv.planning.influence import influence as influence
from iterconv.planning.planning import plan as plan
from iterconv.planning.spans import SpanMap as SpanMap
from iterconv.planning.spans import spans as spans
