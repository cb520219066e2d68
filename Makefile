# make run    set up, start herdpy, boot a build machine, show its clock
# make stop   stop all of it
# make install  install it for the whole host: into PREFIX, with links to its commands in BIN
# make test   set up, run every check and every test
# make instants  kill each of herdpy's programs at each of its system calls (takes hours)
# make chaos  ten minutes of a fleet of services under faults at random; SEED=N for the same ones again
# make bench  what it costs, as ratios
# make bench-peers  the same work done by other supervisors, in one table

PYTHON ?= python3
VENV := .venv
PREFIX ?= /opt/herdpy
BIN ?= /usr/local/bin
SOURCES := pyproject.toml README.md $(shell find bin completion docs/man herdpy services systemd -type f ! -name '*.pyc')

.PHONY: run stop install test check instants bench bench-peers clean
.DELETE_ON_ERROR:

run: $(VENV)/herdpy.stamp
	@sh tools/packages.sh run
	@sh tools/run.sh $(VENV)/bin

stop:
	@sh tools/stop.sh $(VENV)/bin

install:
	$(PYTHON) -m venv $(PREFIX)
	$(PREFIX)/bin/pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy only-if-needed .
	mkdir -p $(BIN)
	ln -sf $(abspath $(PREFIX))/bin/herd $(abspath $(PREFIX))/bin/herdpy $(BIN)/
	@echo "herdpy is installed. To start it now and at each boot, with systemd:"
	@echo "    systemctl enable --now $(abspath $(PREFIX))/share/herdpy/systemd/herdpy.service"
	@echo "If it runs already, let it go on as what is installed now; no service notices:"
	@echo "    herd upgrade root && herd upgrade root keeper"

test: $(VENV)/test.stamp
	@sh tools/packages.sh test
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/python -m pytest -n 3 -q $(TESTS)

instants: $(VENV)/test.stamp
	@sh tools/packages.sh test
	$(VENV)/bin/python -m tests.instants --report instants.tsv

chaos: $(VENV)/test.stamp
	@sh tools/packages.sh test
	$(VENV)/bin/python -m tests.chaos --duration 600 $(if $(SEED),--seed $(SEED))

bench: $(VENV)/test.stamp
	@sh tools/packages.sh test
	$(VENV)/bin/python benchmarks/client.py
	$(VENV)/bin/python benchmarks/boot.py
	$(VENV)/bin/python benchmarks/upgrade.py
	$(VENV)/bin/python benchmarks/survive.py
	$(VENV)/bin/python benchmarks/ready.py
	$(VENV)/bin/python benchmarks/requests.py
	$(VENV)/bin/python benchmarks/logger.py
	$(VENV)/bin/python benchmarks/soak.py
	$(VENV)/bin/python benchmarks/peers.py

bench-peers: $(VENV)/test.stamp
	@sh tools/packages.sh test
	$(VENV)/bin/python benchmarks/peers.py

$(VENV)/bin/pip:
	@PYTHON=$(PYTHON) sh tools/packages.sh run
	$(PYTHON) -m venv $(VENV)

# Not editable: what is run and tested is what a user installs.
$(VENV)/herdpy.stamp: $(VENV)/bin/pip $(SOURCES)
	@echo "installing herdpy into $(VENV)"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check --upgrade --upgrade-strategy only-if-needed .
	@touch $@

$(VENV)/test.stamp: $(VENV)/herdpy.stamp
	@echo "installing what the tests need into $(VENV)"
	@$(VENV)/bin/pip install --quiet --disable-pip-version-check '.[test]'
	@touch $@

clean:
	rm -rf $(VENV)
