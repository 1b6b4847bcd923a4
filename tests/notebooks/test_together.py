"Every notebook of together runs at smoke scale."
import pytest

from runner import execute
from tree import in_folder


@pytest.mark.parametrize("notebook", in_folder("together"))
def test_notebook_runs_at_smoke_scale(notebook, scratch):
    report = execute(notebook, scratch)
    assert not report, f"{notebook} failed at smoke scale:\n{report}"
