"""What checks annotations while tests run: beartype, save where iterconv checks them itself.

The functions that users call, and options by name, refuse wrong values with messages of their own, which tests want
to see; so the former go unchecked here, and the type of the latter counts as a string.
"""

import inspect
from typing import Literal, get_origin

from beartype import BeartypeConf, FrozenDict, beartype

import iterconv
from iterconv import options

_OPTIONS = {hint: str for hint in vars(options).values() if get_origin(hint) is Literal}
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=FrozenDict(_OPTIONS)))


def check(item):
    called_by_users = item.__qualname__ in (*iterconv.__all__, "Registry.register")
    return item if inspect.isfunction(item) and called_by_users else _checked(item)
