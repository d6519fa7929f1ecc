"""What checks annotations while tests run: beartype, save that options are ours to check.

A wrong option must reach our own message, which tests want to see, so its type counts as a string here.
"""

from beartype import BeartypeConf, FrozenDict, beartype

from iterconv import options

_OPTIONS = [hint for name, hint in vars(options).items() if name[0].isupper() and name != "Literal"]

check = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict({o: str for o in _OPTIONS})))
