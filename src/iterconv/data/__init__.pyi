from .dataset import Data as Data
from .dataset import Split as Split
from .loading import load as load
