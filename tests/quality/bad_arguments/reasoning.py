FILE = "from tokenstudy.reasoning.trajectories import Trajectory\nfile = TrajectoryFile('samples.db', {})\n"
TRIE = "trie = Trie([[3, 1], [3, 4], [5]], [1, 0, 1])\n"
SEEN = {
    "reasoning.arithmetic_world.Problem.lines": ("reasoning.arithmetic_world", "draw_problems(1)[0].lines([0])"),
    "reasoning.arithmetic_world.first_mistake": ("reasoning.arithmetic_world", "p = draw_problems(1)[0]\nfirst_mistake(prompt_of(p), solution_of(p))"),
    "reasoning.generator.embed_generator": ("reasoning.generator", "embed_generator(load_generator())"),
    "reasoning.generator.new_generator": ("reasoning.generator", "new_generator(16, 1)"),
    "reasoning.generator.train_generator": ("reasoning.generator", "train_generator(1, decay=1, batch_size=1, hidden=16, layers=1)"),
    "reasoning.trajectories.TrajectoryFile.append": ("reasoning.trajectories", FILE + "file.append([Trajectory('p1', [3], [1], [-.5], '2', True, True)])"),
    "reasoning.trie.Trie.nodes": ("reasoning.trie", TRIE + "trie.nodes(1)"),
    "reasoning.trie.Trie.children": ("reasoning.trie", TRIE + "trie.children(1)"),
    "reasoning.trie.Trie.tokens": ("reasoning.trie", TRIE + "trie.tokens(1)"),
    "reasoning.trie.Trie.find": ("reasoning.trie", TRIE + "trie.find([3, 1])"),
}
SAME: dict = {f"reasoning.arithmetic_world.{name}": {"prompt": ["story"]} for name in ("read_problem", "first_mistake", "true_values", "is_misreading")}
ANY: set = {"reasoning.generator.embed_generator", "reasoning.answers.arithmetic_answer", "reasoning.answers.extract_answer", "reasoning.answers.exact_number",
            "reasoning.arithmetic_world.first_mistake", "reasoning.arithmetic_world.is_misreading", "reasoning.trajectories.sample_trajectories"}
LONG: set = set()
LEGAL: dict = {}
FAULTS: dict = {}
NEVER: dict = {}
