from .dataset import Data as Data
from .dataset import Split as Split
from .loading import load as load
from .sources import Source as Source
from .sources import register as register
