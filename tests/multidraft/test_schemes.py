"multidraft.schemes: what counts as a distribution."
import numpy as np
import pytest
import torch

from tokenstudy.multidraft.schemes import as_distribution


@pytest.mark.parametrize("dtype, bound", [(torch.float64, 1e-6), (torch.float32, 1e-4), (torch.float16, 5e-3), (torch.bfloat16, 5e-3), (np.float64, 1e-6), (np.float32, 1e-4), (np.float16, 5e-3)], ids=str)
def test_reported_sums_are_as_near_to_one_as_the_docstring_says(dtype, bound):
    def made(total):
        values = np.full(256, total/256)
        return torch.tensor(values, dtype=dtype) if isinstance(dtype, torch.dtype) else values.astype(dtype)
    reached = {}
    for sign in (-1, 1):
        for share in (.5, .8, 1.3, 2):
            q = made(1 + sign*share*bound)
            off = abs(float(np.asarray(q.double() if hasattr(q, "double") else q, float).sum()) - 1)
            reached[off < bound] = True
            if off < bound: assert as_distribution(q).sum() == pytest.approx(1)
            else:
                with pytest.raises(ValueError, match="sums to"): as_distribution(q)
    assert len(reached) == 2
    said = {1e-6: "1e-6 in float64", 1e-4: "1e-4 in float32", 5e-3: "5e-3 in\n    half precision"}[bound]
    assert said in as_distribution.__doc__
