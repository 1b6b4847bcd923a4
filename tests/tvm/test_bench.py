"The bench: labels in a process of their own."
import pytest

from tokenstudy import core
from tokenstudy.tvm.bench import labels_scaling


def test_values_labels_are_made_in_a_process_of_their_own():
    told = labels_scaling(10_000)
    assert told["tokens"] == 10_000 and told["seconds"] > 0 and told["bytes"] > 10**7
    with pytest.raises(core.TokenStudyError, match="labels of -100 tokens"): labels_scaling(-100)
