from . import coupling as coupling
from . import data as data
from . import indices as indices
from . import lipschitz as lipschitz
from . import models as models
from . import paths as paths
from . import tasks as tasks
from .adapters.adapt import adapt as adapt
from .coupling import Coupling as Coupling
from .coupling import couple as couple
from .coupling import couple_axis as couple_axis
from .coupling import effective_parameter_count as effective_parameter_count
from .errors import InputError as InputError
from .lipschitz import Constrained as Constrained
from .lipschitz import audit as audit
from .lipschitz import constrain as constrain
from .measuring import Plan as Plan
from .measuring import Report as Report
from .measuring import measure as measure
from .measuring import plan as plan
from .measuring import similarity as similarity
from .paths import Stage as Stage
from .paths import StagedModel as StagedModel
from .paths import verify as verify

__version__: str
