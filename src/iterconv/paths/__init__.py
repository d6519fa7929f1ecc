"""The idea: a perturbation is a path, and a prefix tree evaluates paths.

What a model has to be (``contract.py``), what a perturbation is (``families.py``), how many paths are evaluated
together (``evaluate.py``), and how evaluation leaves no trace (``untouched.py``).
"""

from iterconv.paths.contract import Stage as Stage
from iterconv.paths.contract import StagedModel as StagedModel
from iterconv.paths.contract import coupling_groups as coupling_groups
from iterconv.paths.contract import is_staged as is_staged
from iterconv.paths.contract import require_staged as require_staged
from iterconv.paths.evaluate import Outcome as Outcome
from iterconv.paths.evaluate import block_applications as block_applications
from iterconv.paths.evaluate import block_inputs as block_inputs
from iterconv.paths.evaluate import evaluate as evaluate
from iterconv.paths.evaluate import full_route as full_route
from iterconv.paths.evaluate import verify as verify
from iterconv.paths.families import FAMILIES as FAMILIES
from iterconv.paths.families import Path as Path
from iterconv.paths.families import Perturbation as Perturbation
from iterconv.paths.families import Route as Route
from iterconv.paths.families import dropouts as dropouts
from iterconv.paths.families import early_readouts as early_readouts
from iterconv.paths.families import extra_evaluations as extra_evaluations
from iterconv.paths.families import pair_dropouts as pair_dropouts
from iterconv.paths.families import repetitions as repetitions
from iterconv.paths.families import reversals as reversals
from iterconv.paths.families import run_dropouts as run_dropouts
from iterconv.paths.families import shuffles as shuffles
from iterconv.paths.families import swaps as swaps
from iterconv.paths.untouched import rejections_in_a_line as rejections_in_a_line
from iterconv.paths.untouched import untouched as untouched
