"Public functions and classes: annotations, keyword-only options, one name for one thing, docstrings, examples."
from __future__ import annotations

import ast
import re
from typing import Iterator, NamedTuple

from house import Finding, Module, Sources, comments

# Methods whose signature a library lays down.
OVERRIDES = {"forward", "generate", "from_pretrained", "save_pretrained", "prepare_inputs_for_generation", "resize_token_embeddings",
             "compute_loss", "training_step", "prediction_step", "get_batch_samples", "log", "evaluate", "create_optimizer", "encode",
             "decode", "update", "get_seq_length", "get_max_cache_shape", "get_mask_sizes", "reorder_cache", "crop", "__exit__",
             "__aexit__", "on_step_end", "on_log", "on_train_end", "on_epoch_end", "state_dict", "load_state_dict"}

# A parameter's name that the house does not use: (the right one, on what it is flagged)
ALIASES = {
    "batch": ("batch_size", "number"), "batch_rows": ("batch_size", "any"), "bs": ("batch_size", "any"),
    "micro_batch": ("batch_size", "number"), "batchsize": ("batch_size", "any"),
    "n": ("num_samples", "sampling"), "count": ("num_samples", "sampling"), "samples": ("num_samples", "number"),
    "n_samples": ("num_samples", "any"), "nsamples": ("num_samples", "any"),
    "max_tokens": ("max_new_tokens", "any"), "max_new": ("max_new_tokens", "any"), "new_tokens": ("max_new_tokens", "any"),
    "steps": ("num_steps (of an optimiser), else what is counted, as num_operations", "number"),
    "n_steps": ("num_steps", "any"), "iterations": ("num_steps", "any"), "iters": ("num_steps", "any"),
    "num_iterations": ("num_steps", "any"),
    "ends": ("delimiter", "text"), "end": ("delimiter", "text"), "stop": ("delimiter", "text"),
    "stopping": ("delimiter", "text"), "sep": ("delimiter", "any"), "separator": ("delimiter", "any"), "delim": ("delimiter", "any"),
    "checkpoint": ("output_dir", "any"), "checkpoint_dir": ("output_dir", "any"), "ckpt": ("output_dir", "any"),
    "out_dir": ("output_dir", "any"), "save_dir": ("output_dir", "any"),
    "every": ("save_every", "any"), "checkpoint_every": ("save_every", "any"), "save_steps": ("save_every", "any"),
    "temp": ("temperature", "any"), "topk": ("top_k", "any"), "topp": ("top_p", "any"),
    "random_state": ("seed", "any"), "random_seed": ("seed", "any"), "rng_seed": ("seed", "any"),
    "learning_rate": ("lr", "any"), "right": ("correct", "any"),
    "placeholder_word": ("placeholder", "any"), "bonus_token": ("bonus", "any")}
SAMPLERS = {"lm", "model", "generator", "policy", "prompts", "prompt"}


class Parameter(NamedTuple):
    name: str
    node: ast.arg
    default: ast.expr | None
    positional: bool


class Public(NamedTuple):
    name: str         # "f", "Class" or "Class.method"
    node: ast.AST
    owner: str | None  # the class of a method


def patched(node: ast.AST) -> str | None:
    "The class to which fastcore's `@patch` gives this function, None if there is none."
    if not isinstance(node, ast.FunctionDef): return None
    for d in node.decorator_list:
        f = d.func if isinstance(d, ast.Call) else d
        if getattr(f, "id", getattr(f, "attr", "")) in ("patch", "patch_property", "patch_to"):
            if isinstance(d, ast.Call) and d.args: return ast.unparse(d.args[0])
            first = (node.args.posonlyargs + node.args.args or [None])[0]
            if first is not None and first.annotation is not None: return ast.unparse(first.annotation).strip("'\"")
            return "?"
    return None


def hidden(name: str) -> bool: return name.startswith("_") and name not in ("__init__", "__call__")


def public(module: Module) -> Iterator[Public]:
    "The functions, the classes and their methods that a module offers; nested ones and overloads are left out."
    for node in module.tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            owner = patched(node)
            if owner is None:
                if (node.name in module.public) if module.public is not None else not node.name.startswith("_"):
                    yield Public(node.name, node, None)
            elif not hidden(node.name) and not owner.startswith("_"): yield Public(f"{owner}.{node.name}", node, owner)
        elif isinstance(node, ast.ClassDef):
            if not ((node.name in module.public) if module.public is not None else not node.name.startswith("_")): continue
            yield Public(node.name, node, None)
            for part in node.body:
                if isinstance(part, (ast.FunctionDef, ast.AsyncFunctionDef)) and not hidden(part.name):
                    if not any(ast.unparse(d).split(".")[-1] in ("overload", "setter") for d in part.decorator_list):
                        yield Public(f"{node.name}.{part.name}", part, node.name)


def parameters(item: Public) -> list:
    "The parameters of a function, without `self` and `cls`."
    a, node = item.node.args, item.node
    ordered = a.posonlyargs + a.args
    defaults = [None] * (len(ordered) - len(a.defaults)) + a.defaults
    found = [Parameter(p.arg, p, d, True) for p, d in zip(ordered, defaults)]
    static = any(ast.unparse(d) == "staticmethod" for d in node.decorator_list)
    if item.owner is not None and not static: found = found[1:]
    return found + [Parameter(p.arg, p, d, False) for p, d in zip(a.kwonlyargs, a.kw_defaults)]


def alias(p: Parameter, names: set) -> str | None:
    "What a parameter should be called, None if its name is fine."
    better, kind = ALIASES.get(p.name, (None, None))
    if better is None or kind == "any": return better
    said = ast.unparse(p.node.annotation) if p.node.annotation is not None else ""
    value = p.default.value if isinstance(p.default, ast.Constant) else None
    number = re.search(r"\bint\b", said) and "[" not in said.split("|")[0] or not said and isinstance(value, int)
    if kind == "text": return better if re.search(r"\bstr\b", said) or isinstance(value, str) else None
    if kind == "sampling": return better if number and names & SAMPLERS else None
    return better if number else None


def check_signatures(sources: Sources) -> list:
    "Missing annotations, positional options after the third argument, and names that the house does not use."
    found = []
    for module in sources.modules:
        for item in public(module):
            node = item.node
            if isinstance(node, ast.ClassDef): continue
            def say(name: str, text: str, line: int = node.lineno) -> None:
                found.append(Finding(module.path, sources.where(module, line), name, text))
            ps = parameters(item)
            others = [p for p in (node.args.vararg, node.args.kwarg) if p is not None]
            bare = [p.name for p in ps if p.node.annotation is None] + [p.arg for p in others if p.annotation is None]
            if bare: say(item.name, f"{item.name}: without annotation: {', '.join(bare)}")
            if node.returns is None and node.name != "__init__": say(item.name, f"{item.name}: without a return annotation")
            if item.owner is not None and node.name in OVERRIDES: continue
            late = [p.name for p in ps if p.positional][3:]
            late = [p.name for p in ps if p.name in late and p.default is not None]
            if late: say(item.name, f"{item.name}: options after the third argument must be keyword-only (put * before): {', '.join(late)}")
            for p in ps:
                if better := alias(p, {q.name for q in ps}):
                    say(f"{item.name}.{p.name}", f"{item.name}: parameter {p.name}: call it {better}", p.node.lineno)
    return found


def examples(doc: str) -> list:
    "The number of input lines of each block of examples in a docstring, one number for each stretch without an empty line."
    blocks, count = [], 0
    for line in doc.splitlines() + [""]:
        if re.match(r"\s*(>>>|\.\.\.)( |$)", line): count += 1
        elif not line.strip() and count:
            blocks.append(count)
            count = 0
    return blocks


def commented(module: Module) -> dict:
    "Line to whether a comment stands in it (True) or is all of it (None)."
    return {line: None if whole else True for line, _, whole in comments(module.text)}


def undocumented(names: list, lines: list, doc: str, notes: dict) -> list:
    "Names (on these lines) that have neither a comment of their own nor a mention in the docstring."
    alone = [line for line in lines if lines.count(line) == 1]
    def told(name: str) -> bool:
        return bool(re.search(rf"`[^`]*\b{name}\b[^`]*`" if name in ("a", "i") else rf"(?<!\w){re.escape(name)}(?!\w)", doc))
    return [n for n, line in zip(names, lines) if not told(n)
            and not (line in alone and (notes.get(line) or notes.get(line - 1, 0) is None))]


def ancestry(sources: Sources) -> tuple:
    "Class to the names of its bases, and class to the names of its methods that have a docstring."
    bases, told = {}, {}
    for module in sources.modules:
        for node in module.tree.body:
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [ast.unparse(b).split(".")[-1] for b in node.bases]
                told.setdefault(node.name, set()).update(
                    x.name for x in node.body if isinstance(x, ast.FunctionDef) and ast.get_docstring(x))
            elif (owner := patched(node)) and ast.get_docstring(node): told.setdefault(owner, set()).add(node.name)
    return bases, told


def inherits(item: Public, bases: dict, told: dict) -> bool:
    "Whether a method takes the place of one that a class further up documents."
    todo, seen = list(bases.get(item.owner, [])), set()
    while todo:
        if (name := todo.pop()) in seen: continue
        seen.add(name)
        if item.node.name in told.get(name, ()): return True
        todo += bases.get(name, [])
    return False


def fields(node: ast.ClassDef) -> list:
    "The public fields of a dataclass or named tuple."
    made = [ast.unparse(x) for x in (*node.bases, *node.decorator_list)]
    if not any(re.search("dataclass|NamedTuple|TypedDict", m) for m in made): return []
    return [x for x in node.body if isinstance(x, ast.AnnAssign) and isinstance(x.target, ast.Name) and not x.target.id.startswith("_")]


def check_docs(sources: Sources) -> list:
    "Missing docstrings, parameters that nothing explains, missing or long examples, examples that are skipped."
    found, (bases, told) = [], ancestry(sources)
    for module in sources.modules:
        notes = commented(module)
        for item in public(module):
            node, doc = item.node, ast.get_docstring(item.node) or ""
            def say(text: str) -> None:
                found.append(Finding(module.path, sources.where(module, node.lineno), item.name, f"{item.name}: {text}"))
            special = node.name.startswith("__") or item.owner is not None and (
                node.name in OVERRIDES or not doc and inherits(item, bases, told))
            if not doc and not special: say("no docstring")
            if isinstance(node, ast.ClassDef):
                parts = [(x.target.id, x.lineno) for x in fields(node)]
                doc += "\n\n" + next((ast.get_docstring(x) or "" for x in node.body if getattr(x, "name", "") == "__init__"), "")
            else: parts = [(p.name, p.node.lineno) for p in parameters(item)] if not special or node.name == "__init__" else []
            if node.name == "__init__": doc += "\n\n" + next(
                (ast.get_docstring(x) or "" for x in module.tree.body if getattr(x, "name", "") == item.owner), "")
            missing = undocumented([n for n, _ in parts], [line for _, line in parts], doc, notes)
            if missing: say(f"nothing says what these are: {', '.join(missing)} (a comment behind each, or the docstring)")
            if item.owner is None and not (isinstance(node, ast.ClassDef) and re.search("(Error|Warning)$", node.name)):
                if not examples(doc): say("no example (>>>)")
            if node.name != "__init__":
                for count in examples(doc):
                    if count > 5: say(f"an example of {count} lines; at most 5")
            if "+SKIP" in doc: say("an example that is skipped")
    return found
