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
NEVER: dict = {}

# Legal all the same: the result is of the valid call's kind, or a work that begins
LEGAL = {
    "reasoning.answers.arithmetic_answer": {"response": "|text"},
    "reasoning.answers.clean_answer": {"answer": "|text"},
    "reasoning.answers.extract_answer": {"text": "|text"},
    "reasoning.answers.exact_number": {"answer": "|text"},
    "reasoning.arithmetic_world.apply": {"value": "-1|0", "op": "|text", "n": "-1|0"},
    "reasoning.arithmetic_world.misread_chance": {"op": "|text", "n": "-1|0"},
    "reasoning.arithmetic_world.Problem.lines": {"misread": "[]|{}"},
    "reasoning.arithmetic_world.Problem": {"start": "[]", "steps": "[]|[[]]|[None]|[object]|{}|[nan]", "name": "[]", "modulus": "[]"},
    "reasoning.arithmetic_world.solution_of": {"misread": "[]|{}"},
    "reasoning.arithmetic_world.words": {"text": "|text"},
    "reasoning.arithmetic_world.first_mistake": {"response": "[]||text"},
    "reasoning.arithmetic_world.draw_problems": {"count": "0", "seed": "-1|0"},
    "reasoning.arithmetic_world.arithmetic": {"count": "0", "seed": "-1|0"},
    "reasoning.arithmetic_world.faulty_solutions": {"seed": "-1|0"},
    "reasoning.arithmetic_world.true_values": {"response": "[]||text"},
    "reasoning.arithmetic_world.is_misreading": {"response": "[]||text"},
    "reasoning.arithmetic_world.distractor_problems": {"count": "0", "foreign": "0", "seed": "-1|0"},
    "reasoning.generator.new_generator": {"seed": "0"},
    "reasoning.generator.lesson": {"step": "0", "seed": "0"},
    "reasoning.generator.train_generator": {
        "decay": "0", "warmup": "0", "seed": "0", "output_dir": "missing|folder", "save_every": "inf|0", "device": ""},
    "reasoning.generator.embed_generator": {"seed": "0"},
    "reasoning.generator.load_generator": {"device": "", "dtype": ""},
    "reasoning.grading.Grade": {"correct": "[]", "answer": "[]", "note": "[]"},
    "reasoning.grading.same_answer": {"a": "None|1|bytes|object||text", "b": "None|1|bytes|object||text"},
    "reasoning.grading.grade_arithmetic": {"golds": "[[]]|[None]|[object]|[nan]"},
    "reasoning.grading.group_answers": {"answers": "[]|[None]|[object]|generator|[nan]"},
    "reasoning.trajectories.Trajectory": {"prompt_ids": "[]"},
    "reasoning.trajectories.trajectories_dataset": {"trajectories": "[]|{}|generator"},
    "reasoning.trajectories.TrajectoryFile": {"path": "missing|folder", "settings": "{}|other keys"},
    "reasoning.trajectories.text_of": {"response_ids": "[]|{}|generator"},
    "reasoning.trajectories.sample_trajectories": {"path": "missing", "seed": "0", "temperature": "0", "top_k": "0"},
    "reasoning.trajectories.first_mistakes_of": {"trajectories": "[]|{}|generator"},
    "reasoning.trie.Trie.nodes": {"path": "0"},
    "reasoning.trie.Trie.children": {"node": "0"},
    "reasoning.trie.Trie.tokens": {"node": "0"},
    "reasoning.trie.Trie.find": {"tokens": "[]|generator"},
}
FAULTS: dict = {}
