"""What the hub is asked for, and what is said when it does not give it."""
import pytest
from huggingface_hub import errors

from tokenstudy import core


class Response:
    headers, request, status_code, text = {}, None, 403, ""


def made(kind, text):
    error = kind.__new__(kind)
    Exception.__init__(error, text)
    return error


@pytest.mark.parametrize("error, said", [
    (made(errors.GatedRepoError, "Cannot access gated repo"), "accept the licence on its page, https://huggingface.co/a/b, and run `hf auth login`"),
    (OSError("You are trying to access a gated repo. 403 Client Error"), "accept the licence on its page"),
    (OSError("a/b does not appear to have a file named model.safetensors"), "no safetensors in this revision"),
    (EnvironmentError("Could not find the necessary `safetensors` weights in {...}"), "no safetensors in this revision"),
    (made(errors.RepositoryNotFoundError, "no repository"), "no such repository"),
    (made(errors.RevisionNotFoundError, "no revision"), "no such revision or file"),
    (OSError("a/b is not a local folder and is not a valid model identifier listed on 'https://huggingface.co/models'"), "no such repository"),
    (made(errors.OfflineModeIsEnabled, "HF_HUB_OFFLINE"), "switched off here (HF_HUB_OFFLINE)"),
    (RuntimeError("Dataset scripts are no longer supported, but found xsum.py"), "a data set script, which is never run here: name a parquet revision"),
    (OSError("We couldn't connect to 'https://huggingface.co' to load the files"), "does not answer, and no copy is in its cache: check the network, or fetch it elsewhere with `hf download a/b`"),
    (ValueError("something else\nand more"), "something else")])
def test_what_is_wrong_is_told_apart(error, said):
    assert said in core.hub_trouble("a/b", error)
    outer = ValueError("it could not be loaded")
    outer.__cause__ = error
    assert said in core.hub_trouble("a/b", outer) or said == "something else"


def test_a_data_set_has_another_page():
    error = OSError("403 Client Error: gated")
    assert "huggingface.co/datasets/openai/gsm8k," in core.hub_trouble("openai/gsm8k", error) and "datasets" not in core.hub_trouble("meta-llama/Meta-Llama-3-8B", error)


def test_all_that_the_scales_ask_for_is_in_the_table():
    "Names of the hub in the notebooks' settings and loaders are those of the table."
    import re
    from conftest import ROOT
    text = "".join(p.read_text() for p in sorted((ROOT/"nbs").rglob("*.ipynb")) if p.name != "15_hub.ipynb")
    owners = "|".join(sorted({re.escape(name.split("/")[0]) for name in core.HUB}))
    asked = {m[1] for m in re.finditer(rf'"({"(?:" + owners + ")"}/[\w.-]+)\\\\?"', text)}
    assert asked and asked <= core.HUB.keys()
    assert core.HUB.keys() <= {name for name in core.HUB if name in text}
