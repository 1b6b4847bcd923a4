"The bench: labels in a process of their own."
import pytest

from tokenstudy import core
from tokenstudy.tvm.bench import labels_scaling


def test_values_labels_are_made_in_a_process_of_their_own(tmp_path, monkeypatch):
    told = labels_scaling(10_000)
    assert told["tokens"] == 10_000 and told["seconds"] > 0 and told["bytes"] > 10**7
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path/"json.py").write_text("raise NameError('broken')")
    with pytest.raises(core.TokenStudyError, match="(?s)labels of 1000 tokens: .*NameError"): labels_scaling(1000)
    with pytest.raises(ValueError, match="tokens = 99"): labels_scaling(99)
