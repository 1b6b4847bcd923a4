"The bench of critical tokens."
from tokenstudy.cdpo import bench


def test_cdpo_bench_contestants_step():
    "Neither side of the bench row fails."
    for step in bench.step_contest(batch_size=2, hidden=16, layers=1): step()


def test_cdpo_bench_rows_at_a_small_size():
    rows = {r["name"]: r for r in bench.rows(trajectories=2, num_samples=2, full=8, runs=1, num_steps=1, stride=20)}
    assert list(rows) == ["rollouts_vs_generate", "sequential_identification", "sequential_agreement", "step_vs_trl"]
    assert rows["sequential_identification"]["ours"] < rows["sequential_identification"]["peer"] and 0 <= rows["sequential_agreement"]["ours"] <= 1
