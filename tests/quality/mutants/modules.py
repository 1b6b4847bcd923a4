"The modules of pure mathematics whose tests are measured by mutants, and the tests that are asked."
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = "tokenstudy"
EQUIVALENT = Path(__file__).resolve().parent/"equivalent.txt"


@dataclass(frozen=True)
class Module:
    tests: tuple          # files, from the project's root
    without: tuple = ()   # what is no mathematics: functions that draw, tokenise or run a language model, texts of warnings, names of columns, rules for check_module
    compiled: bool = True # False: numba's kernels run as plain Python, which spares compiling each of their mutants
    slow: tuple = ()      # tests that are not asked: what they add is size, not mathematics


def tests(*names: str) -> tuple: return tuple(f"tests/{name}.py" for name in names)


LARGE = ("memory_is_linear", "large_vocabulary", "real_vocabularies", "sampled_select", "low_precision", "sums_that_round")

MODULES = {
    "core/statistics": Module(tests("core/test_statistics")),
    "reasoning/trie": Module(tests("reasoning/test_trie")),
    "tvm/labels": Module(tests("tvm/test_labels"), without=("_DOUBTS", "_no_ends")),
    "tvm/voting": Module(tests("tvm/test_voting"), without=("draw_accuracy",)),
    "cdpo/losses": Module(tests("cdpo/test_losses")),
    "cdpo/critical": Module(tests("cdpo/test_critical"), without=("_streams",), slow=("known_truth", "uses_few_rollouts", "that_can_come_right", "test_critical_interventions", "no_room")),
    "cdpo/pairs": Module(tests("cdpo/test_pairs"), without=(
        "tokenize_pairs", "check_texts", "checked", "_check_row", "word_lm", "no_bars", "StreamReview", "BorderCheck",
        "TokenWeightedCollator", "BAD", "TOKENS", "REFERENCE", "_fits_heads", "_sampled", "_has_ids", "_has_prompt_ids",
        "_has_counts", "_positive", "_review", "_are_options")),
    "cdpo/weights": Module(tests("cdpo/test_weights"), without=("weights_from_contrast", "weights_from_spans", "_is_side")),
    "multidraft/schemes": Module(tests("multidraft/test_schemes", "multidraft/test_optimal"), slow=LARGE),
    "multidraft/canonical": Module(tests("multidraft/test_canonical", "multidraft/test_optimal"), without=("_arrays",), slow=LARGE),
    "multidraft/optimal": Module(tests("multidraft/test_optimal"), compiled=False, without=("compiled",), slow=(*LARGE, "every_scheme", "nothing_beats", "more_drafts", "branch_and_bound_equals", "program", "decomposition")),
    "multidraft/acceptance": Module(tests("multidraft/test_acceptance"), without=("draw_comparison", "panel")),
    "multidraft/verification": Module(
        tests("multidraft/test_verification") + tuple(f"tests/multidraft/{name}" for name in (
            "test_decoding.py::test_sequence_distribution_of_tables_block", "test_decoding.py::test_sequence_distribution_of_tables_traversal",
            "test_decoding.py::test_sequence_distribution_of_named_tables", "test_rates.py::test_sequence_distribution_of_lifted_schemes",
            "test_rates.py::test_decoding_lifted_scheme_must_select_one_token"))),
}
