"""Runs notebooks with nbdev's own runner, each in a fork of one process that has already imported the heavy libraries.
Half of a notebook's time was imports. Run as a script it is that process: a line of JSON in, a line of JSON out."""
import atexit
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HEAVY = ("numpy", "scipy.optimize", "scipy.stats", "numba", "matplotlib.pyplot", "torch", "transformers", "datasets", "peft",
         "trl", "diffusers", "nbdev.test", "IPython.core.interactiveshell")


def outputs(notebook: Path):
    "Cell source and output, for every stored output of a notebook."
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []): yield "".join(cell["source"]), output


def texts(output: dict):
    "The texts of one output: streams, tracebacks and every textual representation."
    yield "".join(output.get("text", []))
    yield "\n".join(output.get("traceback", []))
    for kind, data in output.get("data", {}).items():
        if not kind.startswith("image/") or kind.endswith("xml"): yield data if isinstance(data, str) else "".join(map(str, data))


def fault(output: dict) -> str:
    """What an output tells of a failure that stops no runner, empty when all is well: errors while a figure or a rich output is drawn
    end in a callback's message, in a figure without a picture, or in an object shown by its address."""
    shown = "\n".join(texts(output))
    if output["output_type"] == "error" or re.search(r"Traceback \(most recent call last\)|Error in callback", shown): return shown[-2000:]
    if "<Figure size" in shown and not any(kind.startswith("image/") for kind in output.get("data", {})): return f"a figure that was not drawn: {shown[:200]}"
    if found := re.search(r".* at 0x[0-9a-f]{6,}.*", shown): return f"an object without a representation: {found[0][:200]}"
    return ""


class Server:
    "The process that forks; one for each test worker."

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        atexit.register(self.close)

    def close(self):
        if self.process.poll() is None: self.process.kill()

    def ask(self, **what) -> dict:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


SERVER = []


def execute(notebook: str, project: Path, timeout: float = 900) -> str:
    "Run a notebook with nbdev's runner, which knows the directives, storing its outputs; the report, empty when all is well."
    if not SERVER or SERVER[0].process.poll() is not None: SERVER[:] = [Server()]
    told = SERVER[0].ask(notebook=notebook, project=str(project), timeout=timeout)
    if told["code"]: return f"ended with {told['code']}\n{told['said'][-6000:]}"
    return "\n".join(f"in the cell\n{source}\nthe output is\n{fault(output)}" for source, output in outputs(project/notebook) if fault(output))


def child(notebook: str, project: str) -> int:
    "Run one notebook; the exit code."
    os.chdir(project)
    sys.path.insert(0, project)
    os.environ["PYTHONPATH"] = project
    from nbdev.config import get_config
    from nbdev.test import test_nb
    done, _ = test_nb(Path(project)/notebook, skip_flags=get_config().tst_flags.split(), save=True, basepath=project)
    return 0 if done else 1


def wait(pid: int, seconds: float) -> int:
    "The exit code of a child, which is killed with all that it started when its time is over."
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        time.sleep(.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return 124


def serve():
    "Import, then fork for every notebook that is asked for."
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)                               # what libraries print on import is no answer
    for name in HEAVY:
        try: __import__(name)
        except ImportError: pass
    for line in sys.stdin:
        asked = json.loads(line)
        with tempfile.TemporaryFile("w+") as said:
            pid = os.fork()
            if pid == 0:
                os.setpgid(0, 0)
                for number in (1, 2): os.dup2(said.fileno(), number)
                code = 70
                try: code = child(asked["notebook"], asked["project"])
                except BaseException:
                    import traceback
                    traceback.print_exc()
                finally:
                    sys.stdout.flush(); sys.stderr.flush()
                    os._exit(code)
            code = wait(pid, asked["timeout"])
            said.seek(0)
            answers.write(json.dumps(dict(code=code, said=said.read())) + "\n")
            answers.flush()


if __name__ == "__main__": serve()
