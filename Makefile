# Two commands: `make book` and `make test`. Both build .venv first if it is missing.
PYTHON ?= python3
PROFILE ?= laptop
PORT ?= 8000
# Versions of everything, with hashes, which are checked; CONSTRAINTS= (nothing) installs the newest of everything.
CONSTRAINTS ?= constraints.txt
# visdom, which adv-lib asks for, is built from source before Python 3.12, by a setuptools that has pkg_resources.
BUILD_WITH := setuptools<81
# Processes for tests, a file to each at a time: those of a file share what they prepare. A process takes about 1 GB.
WORKERS ?= 4
BIN := .venv/bin
# pip leaves compiling to Python, which does it for what is imported, once, unless it is told to keep nothing.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help env book serve pdf browse test suite quick seconds nightly check style types clean

help:
	@echo "make book   train the $(PROFILE) profile, run every chapter, build build/html/index.html"
	@echo "make serve  show the book at http://localhost:$(PORT)/; PORT=8001 if that is taken"
	@echo "make pdf    make book, then print it with Chromium as build/latent-point-collapse.pdf"
	@echo "make browse read the built book with Chromium: every page, two widths, light and dark, keyboard"
	@echo "make test   lint, types, imports and tests, in up to $(WORKERS) processes"
	@echo "make quick  the tests that were quick when last recorded: no trainings, clusters, chapters or browsers"
	@echo "make seconds  all tests, and record their times in tests/seconds.json, by which make quick chooses"
	@echo "make nightly  tests that take minutes: attacks and every chapter on a pretended GPU"
	@echo "make env    make .venv as constraints.txt says; CONSTRAINTS= takes the newest versions instead"
	@echo "make clean  remove build/ (runs/ and .venv/ stay)"
	@echo "make book PROFILE=smoke builds the book from runs of a few seconds"

env: .venv/installed

.venv/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python >= 3.10 is needed; this is " + sys.version.split()[0] + ". Set PYTHON=/path/to/python3")'
	$(PYTHON) -m venv .venv
ifeq ($(strip $(CONSTRAINTS)),)
	echo '$(BUILD_WITH)' > .venv/build.txt
	PIP_CONSTRAINT=.venv/build.txt PIP_BUILD_CONSTRAINT=.venv/build.txt $(BIN)/python -m pip install --no-compile \
		--use-pep517 --editable '.[attacks,book,certified,cluster,dev,faiss,margins]'
else
	sed -n '/^setuptools==/,/[^\\]$$/p' $(CONSTRAINTS) > .venv/build.txt
	$(BIN)/python -m pip install --no-compile --require-hashes --no-deps --requirement .venv/build.txt
	$(BIN)/python -m pip install --no-compile --use-pep517 --no-build-isolation --require-hashes --no-deps --requirement $(CONSTRAINTS)
	$(BIN)/python -m pip install --no-compile --no-build-isolation --no-deps --editable .
endif
	$(BIN)/python -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "experiments.pth").write_text(str(pathlib.Path.cwd()) + "\n")'
	$(BIN)/python -c 'import matplotlib.pyplot, pandas, papermill, sklearn.metrics, torch.func, torchvision'  # compiled
	touch $@

book: env
	$(BIN)/python -m experiments book --profile $(PROFILE)

serve:
	@test -f build/html/index.html || { echo "there is no build/html/index.html yet; build it with: make book" >&2; exit 1; }
	@$(PYTHON) -c 'import socket as s; one = s.socket(); one.setsockopt(s.SOL_SOCKET, s.SO_REUSEADDR, 1); one.bind(("127.0.0.1", $(PORT)))' 2> /dev/null \
		|| { echo "port $(PORT) is taken or not allowed; choose another: make serve PORT=8001" >&2; exit 1; }
	@echo "the book is at http://localhost:$(PORT)/ until Ctrl-C"
	@$(PYTHON) -m http.server $(PORT) --bind 127.0.0.1 --directory build/html

pdf: book
	$(BIN)/python -m experiments pdf --profile $(PROFILE)

browse: env
	$(BIN)/python -m pytest -p no:cacheprovider -n auto --maxprocesses $(WORKERS) --dist loadgroup tests/browser

test: style types suite

suite: style
	$(BIN)/python -m pytest -n auto --maxprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

seconds: env
	$(BIN)/python -m pytest -n auto --maxprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --record-seconds

nightly: env
	$(BIN)/python -m pytest -m nightly

quick: env
	$(BIN)/python -m pytest -n auto --maxprocesses $(WORKERS) --dist loadfile \
		-m "not (nightly or slow or process or cluster or book or browser)"

check: style types

style: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: env
	$(BIN)/pyright

clean:
	rm -rf build
