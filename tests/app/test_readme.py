"The Python blocks of README.md run as they stand, in the order of the page."
import re

import pytest

from conftest import ROOT
from tokenstudy import lm

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT/"README.md").read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_there_are_blocks(): assert len(BLOCKS) >= 2


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_runs(number, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)      # what a block writes must not stay
    if "load_lm" in BLOCKS[number] and lm.lm_status()[0]["state"] in ("missing", "corrupt"): pytest.skip("SmolLM2 is not installed")
    names = {}
    exec(BLOCKS[number], names)
    if "custom_generate" in BLOCKS[number]:
        assert names["decode"].last.block_efficiency > 1
        assert re.search(r"\d\.\d+\s*$", capsys.readouterr().out)
    if "trainer.train()" in BLOCKS[number]: assert [e["step"] for e in names["trainer"].state.log_history if "train_runtime" in e] == [2]
    if "step_beam" in BLOCKS[number]: assert int(re.search(r"(\d+) of 50", capsys.readouterr().out)[1]) >= 35 and (tmp_path/"verifier"/"config.json").is_file()
    if "identify_sequential" in BLOCKS[number]: assert capsys.readouterr().out.strip() in BLOCKS[number] and names["found"].critical.reason == "found"
