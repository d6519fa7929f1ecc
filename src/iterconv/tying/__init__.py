"""Recurrent surrogates: models whose runs of alike blocks become one block each; and an audit of shared parameters.

``phases.py`` finds the runs, ``copies.py`` makes the copy whose blocks share their tensors, ``fitting.py`` trains it,
``tie.py`` joins all of it, and ``tied.py`` holds the result. ``sharing.py`` is the audit, and ``exchange.py`` tells
what a further application of a tied block is worth.
"""

from iterconv.tying.exchange import Exchange as Exchange
from iterconv.tying.exchange import exchange_rate as exchange_rate
from iterconv.tying.phases import find_phases as find_phases
from iterconv.tying.sharing import sharing as sharing
from iterconv.tying.tie import tie as tie
from iterconv.tying.tied import Tied as Tied
