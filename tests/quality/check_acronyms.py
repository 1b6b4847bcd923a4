"An acronym is spelled out where a notebook first uses it, and stands in the glossary."
from __future__ import annotations

import re

from check_words import blank, plain
from house import Finding, Notebook, Sources

GLOSSARY = "nbs/glossary.ipynb"
ACRONYMS = {  # what may stand beside an acronym, as words; ~ is s or z
    "AUC": ["area under the curve", "area under the receiver operating characteristic curve"],
    "BRAT": ["bonus orthogonal token"],
    "BT": ["Bradley-Terry"],
    "CE": ["cross-entropy"],
    "CLIP": ["contrastive language-image pretraining", "contrastive language-image pre training"],
    "DPO": ["direct preference optimi~ation"],
    "DVTS": ["diverse verifier tree search"],
    "ECE": ["expected calibration error"],
    "EMA": ["exponential moving average"],
    "EOS": ["end-of-sequence", "end-of-text"],
    "GRPO": ["group relative policy optimi~ation"],
    "IS": ["importance sampling", "importance-weighted sampling"],
    "KL": ["Kullback-Leibler"],
    "KV": ["key-value", "keys and values", "key and value"],
    "LLM": ["large language model"],
    "LM": ["language model"],
    "LP": ["linear program", "linear programming"],
    "LoRA": ["low-rank adapter", "low-rank adaptation"],
    "MCTS": ["Monte Carlo tree search"],
    "MLP": ["multilayer perceptron", "multi-layer perceptron"],
    "MSE": ["mean squared error"],
    "NLL": ["negative log-likelihood"],
    "ORM": ["outcome reward model", "outcome-supervised reward model"],
    "OVM": ["outcome-supervised value model", "outcome value model"],
    "PPO": ["proximal policy optimi~ation"],
    "PRM": ["process reward model", "process-supervised reward model"],
    "REBASE": ["reward-balanced search"],
    "RLHF": ["reinforcement learning from human feedback"],
    "ROC": ["receiver operating characteristic"],
    "RPO": ["reasoning preference optimi~ation", "iterative reasoning preference optimi~ation",
            "regulari~ed preference optimi~ation", "robust preference optimi~ation"],
    "RSD": ["recursive speculative decoding"],
    "SFT": ["supervised fine-tuning"],
    "TDPO": ["token-level direct preference optimi~ation", "token-level DPO"],
    "TV": ["total variation"],
    "TVM": ["token-supervised value model"],
    "VAE": ["variational autoencoder", "variational auto encoder"],
    "cDPO": ["contrastive direct preference optimi~ation", "contrastive DPO"],
}
# Names of things, units and words that everybody writes so: nothing to spell out.
NAMES = set("""AI AMD HEIC API ARM ASCII AVX AWS BF16 CI CITATION CHANGELOG CLI CONTRIBUTING CPU CSS CSV CUDA DINO EAGLE FLOP FLOPS FP16 FP32
GB GGUF GPT GSM GSM8K GPU HF HTML HTTP HTTPS ID IO ICLR ICML IEEE II III IV IPC JSON JSONL KB LICENSE MANIFEST MATH MB MIT MKL MPS NEURIPS NVIDIA
ACL EMNLP NCCL OK OPT OMP OS PATH PDF PDFS PIL PNG PR PRS PYPI RAM README RGB SD SDXL SEQ SHA SIGALRM SIGKILL SIGTERM SMT SQL SVG TB TF32
TODO TOML TRL UI URL URLS US USA UTC UTF UTF8 WAL XML YAML FR WSL NFS NUMA SSD POSIX NOT AND OR""".split())
KNOWN = re.compile(rf"(?<![\w-])({'|'.join(sorted(ACRONYMS, key=len, reverse=True))})(s|'s)?(?![\w])")
CAPITALS = re.compile(r"(?<![\w\-./])([A-Z]{2,})s?(?![\w])")


def prose(text: str) -> str:
    "Plain prose without headings, emphasis marks, and titles of papers (emphasised, five words or more)."
    text = blank(r"^#+ .*$", plain(text), flags=re.M)
    text = re.sub(r"(?<!\*)\*([^*\n]+)\*(?!\*)", lambda m: " " if len(m[1].split()) > 4 else m[1], text)
    return re.sub(r"\*\*|__|\\", "", text)


def spelled(acronym: str, text: str) -> bool:
    "Whether `text` has 'spelled out words (ACR)', 'ACR (spelled out words)', 'ACR, spelled out', or a row of a table."
    text = re.sub(r"\s+", " ", text)
    for words in ACRONYMS[acronym]:
        words = r"[\s\-–—/]+".join(re.escape(w).replace(r"\~", "[sz]") for w in re.split("[ -]", words)) + "s?"
        short = re.escape(acronym) + "(?:s|'s)?"
        before = rf"(?i:{words})['’s]*\W{{0,3}}\(?\[?(or |short )?{short}\b"
        after = rf"\b{short}\b[\s,:=|(\[“\"]{{1,5}}(an? |the |for |is |short for )*[^().;|]{{0,25}}(?i:{words})"
        if re.search(before, text) or re.search(after, text): return True
    return False


def first_uses(nb: Notebook) -> dict:
    "Acronym (known or only capitals) to (cell number, line, the paragraph around it) of its first use."
    found = {}
    for cell in nb.cells:
        if cell.kind != "markdown": continue
        text = prose(cell.source)
        for m in sorted([*KNOWN.finditer(text), *CAPITALS.finditer(text)], key=lambda m: m.start()):
            begin = text.rfind("\n\n", 0, m.start()) + 1
            end = text.find("\n\n", m.end())
            found.setdefault(m[1], (cell.index, text[:m.start()].count("\n") + 1, text[begin:end if end > 0 else None]))
    return found


def check_acronyms(sources: Sources) -> list:
    "Acronyms that are not spelled out at their first use, that the glossary lacks, or that this file does not know."
    found, used = [], {}
    for nb in sources.notebooks:
        for acronym, (cell, line, paragraph) in first_uses(nb).items():
            where = f"cell {cell} line {line}"
            if acronym in ACRONYMS:
                used.setdefault(acronym, nb.path)
                if not spelled(acronym, paragraph):
                    words = ACRONYMS[acronym][0].replace("~", "s")
                    found.append(Finding(nb.path, where, acronym, f"{acronym} is used before it is spelled out: {words} ({acronym})"))
            elif acronym not in NAMES:
                found.append(Finding(nb.path, where, acronym, f"{acronym} is unknown: spell it out and add it to ACRONYMS, "
                                     "or, if it is a name, to NAMES in tests/quality/check_acronyms.py"))
    glossary = next((nb for nb in sources.notebooks if nb.path == GLOSSARY), None)
    text = "\n\n".join(c.source for c in glossary.cells) if glossary else ""
    for acronym in sorted(used):
        if not re.search(rf"\b{re.escape(acronym)}\b", text):
            found.append(Finding(GLOSSARY, "glossary", acronym, f"{acronym} (used in {used[acronym]}) does not stand in the glossary"))
    return found
