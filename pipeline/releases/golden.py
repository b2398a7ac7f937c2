"""Golden samples: does a model give the answers that the gate saw from this very file?

Pure arithmetic over probabilities; who runs the model is the caller's business.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.releases.manifest import Golden, GoldenTolerance

# G golden samples, K classes.


def golden_misses(golden: Sequence[Golden], probabilities_GK: NDArray[np.floating], tolerance: GoldenTolerance) -> str | None:
    """Why the answers are not within tolerance, for a person; None if they are. NaN is never within tolerance.

    A sample counts for agreement only if its recorded margin exceeds the allowed difference: closer ones may flip.
    """
    recorded_GK = np.asarray([sample.probabilities for sample in golden], dtype=np.float64)
    found_GK = np.asarray(probabilities_GK, dtype=np.float64)
    if found_GK.shape != recorded_GK.shape:
        return f"answers of shape {found_GK.shape}, recorded {recorded_GK.shape}"
    if not np.isfinite(found_GK).all():
        return "answers that are not numbers"
    difference_G = np.abs(found_GK - recorded_GK).max(axis=1)
    worst = int(difference_G.argmax())
    if difference_G[worst] > tolerance.max_probability_difference:
        return f"golden sample {worst} is {difference_G[worst]:.4f} off, tolerance {tolerance.max_probability_difference}"
    top_two_G2 = np.sort(recorded_GK, axis=1)[:, -2:]
    clear_G = top_two_G2[:, 1] - top_two_G2[:, 0] > tolerance.max_probability_difference
    if not clear_G.any():
        return None
    agreement = float((found_GK.argmax(axis=1) == recorded_GK.argmax(axis=1))[clear_G].mean())
    if agreement < tolerance.min_agreement:
        return f"{agreement:.1%} of the golden samples agree, at least {tolerance.min_agreement:.1%} must"
    return None
