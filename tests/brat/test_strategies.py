"The penalty and the options."
import pytest
import torch
from hypothesis import given, strategies as st
from brat.toys import pictures, pipeline, learn, seeded

from tokenstudy.brat.tokens import word_id
from tokenstudy.brat.strategies import Options, cos_penalty
from tokenstudy.brat.inversion import Trainer


SIZES = st.tuples(st.integers(2, 5), st.integers(2, 9), st.integers(0, 10**6))

@given(SIZES, st.floats(.01, 100), st.floats(.01, 100))
def test_cos_penalty_laws(sizes, first, others):
    n, d, seed = sizes
    rows = torch.randn(n, d, generator=seeded(seed)) + .01
    value = float(cos_penalty(rows))
    scaled = torch.cat([rows[:1] * first, rows[1:] * -others])
    assert -1e-6 <= value <= n * (n - 1) / 2 + 1e-4
    assert abs(float(cos_penalty(scaled)) - value) < 1e-4 and abs(float(cos_penalty(rows.flip(0))) - value) < 1e-4
    assert abs(float(cos_penalty(rows[:1].repeat(n, 1))) - n * (n - 1) / 2) < 1e-4
    q = torch.linalg.qr(torch.randn(d, d, generator=seeded(seed)))[0][:n]
    assert abs(float(cos_penalty(q * first))) < 1e-6 and float(cos_penalty(rows[:1])) == 0
    by_hand = sum(float(torch.cosine_similarity(rows[i], rows[j], 0))**2 for i in range(n) for j in range(i))
    assert abs(value - by_hand) < 1e-4


def penalty_gradient(jitter):
    "The greatest entry of the penalty's gradient at the start, relative to what a right angle's slope would be."
    with Trainer(pipeline(), pictures(), "<x>", "cat", Options(num_bonus=1, orthogonality=1., jitter=jitter)) as trainer:
        rows = trainer.rows["text_encoder"]
        trainer._penalty().backward()
        return float(rows.grad.abs().max() * rows.detach().norm(dim=1).mean())


def test_penalty_has_no_gradient_at_equal_rows_and_one_with_jitter():
    assert penalty_gradient(0.) < 1e-6 < 1e-3 < penalty_gradient(1e-3)


def test_penalty_separates_the_tokens_and_lambda_zero_does_not_see_them():
    "A penalty much larger than the loss brings the cosine to 0; with λ = 0 the loss alone decides."
    pipe = pipeline()
    strong, none = (learn(pipe, num_steps=60, orthogonality=w).history for w in (100., 0.))
    assert abs(strong[-1]["cos"]) < .05 and strong[0]["cos"] > .5 and abs(none[-1]["cos"]) > abs(strong[-1]["cos"])
    assert learn(pipe, num_steps=1, num_bonus=0).history[0]["cos"] is None


def test_only_bonus_tokens_get_the_jitter():
    pipe = pipeline()
    word = pipe.text_encoder.get_input_embeddings().weight[word_id(pipe.tokenizer, "cat")]
    with Trainer(pipe, pictures(), "<x>", "cat", Options(num_bonus=2, jitter=1e-3)) as trainer:
        away = (trainer.rows["text_encoder"] - word).abs().amax(1)
    assert away[0] == 0 and (away[1:] > 1e-4).all() and (away[1:] < 1e-2).all()
    with Trainer(pipe, pictures(), "<x>", "cat", Options(strategy="negative")) as trainer:
        assert torch.equal(trainer.rows["text_encoder"][1], -word)


@pytest.mark.parametrize("wrong", [
    dict(orthogonality=-.1), dict(orthogonality=float("nan")), dict(num_bonus=-1), dict(num_bonus=1.5), dict(strategy="other"), dict(blocks=0), dict(num_steps=0), dict(batch_size=0), dict(lr=0),
    dict(lr=float("inf")), dict(clip=-1.), dict(jitter=-1.), dict(join="x"), dict(join=""), dict(templates="objects"), dict(templates=("no place",)), dict(templates=()),
    dict(templates=("{} {}",)), dict(mixed_precision="int8"), dict(size=33), dict(seed=-1), dict(save_every=0), dict(accumulation=True), dict(weight_decay=-1.)],
    ids=lambda wrong: "-".join(map(str, *wrong.items())))
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match="size is 33" if "size" in wrong else "template" if "templates" in wrong else f"{[*wrong][0]} is"): learn(pipeline(), **wrong)
