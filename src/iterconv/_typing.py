"""Shape annotations: jaxtyping's where it is installed (the tests check them), plain tensors elsewhere.

Measuring must work with torch, numpy and pandas alone, so jaxtyping may not be required at run time.
"""

from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
else:
    try:
        from jaxtyping import Bool, Float, Int, Shaped
    except ImportError:

        class _AnyShape:
            def __class_getitem__(cls, item: Any) -> type[Tensor]:
                return Tensor

        Bool = Float = Int = Shaped = _AnyShape

__all__ = ["Bool", "Float", "Int", "Shaped"]
