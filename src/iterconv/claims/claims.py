"""The paper's claims, each a function from the tables of runs to findings."""

from iterconv.claims import about_errors, about_indices, about_toys, about_variants
from iterconv.claims.claim import Claim

CLAIMS: tuple[Claim, ...] = (
    about_toys.smooth_readouts,
    about_toys.overshoot,
    about_indices.ordinary_networks,
    about_indices.coupling_and_indices,
    about_indices.width_and_indices,
    about_indices.constrained_indices,
    about_errors.coupling_and_error,
    about_errors.width_and_rise,
    about_errors.indices_and_error,
    about_errors.cost_of_convergence,
    about_indices.own_predictions,
    about_errors.effective_parameters,
    about_variants.small_norm_scale,
    about_variants.triangular_kernel,
    about_variants.late_coupling,
    about_errors.proper_against_improper,
    about_errors.no_data_set_gains,
)
"""The claims in the paper's order."""
