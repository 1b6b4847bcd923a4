"A toy whose truth is known: a text of a random model is lost at its first token 3."
import pytest

from tokenstudy import lm as lms


FREE = dict(max_total=8, temperature=1.5)


def clean(ids): return 3 not in ids


@pytest.fixture(scope="module")
def toy(): return lms.tiny_lm("llama", vocab=8)


@pytest.fixture(scope="module")
def wrong(toy):
    "Texts that are lost at their first token 3."
    return [s for s in lms.sample(toy, [[1, 2]] * 40, max_new_tokens=8, seed=1, temperature=1.5) if s.finished and not clean(s.response_ids)][:4]
