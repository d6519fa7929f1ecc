"""What the command line measures and plans: a model by name, with the batches that it takes."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from iterconv.subjects.opening import Subject as Subject
    from iterconv.subjects.opening import open_subject as open_subject

__all__ = ["Subject", "open_subject"]


def __getattr__(name: str) -> Any:  # late, so that the command line can look at options without torch
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from iterconv.subjects import opening

    return getattr(opening, name)
