# `make demo` and `make test` set everything up by themselves, in .venv; they need python3 (3.10 or later, with venv) and make.
# Only the first call is slow: it downloads PyTorch (several GB). PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export HF_HUB_OFFLINE := 1
export TRANSFORMERS_OFFLINE := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-comfyui test-clients docs pictures screenshots thumbnails lint manifest benchmarks clean

setup: $(STAMP)

# basicsr comes last and may fail: its source needs torch while it is built, and Python 3.13 cannot build it. spandrel stands in.
$(STAMP): pyproject.toml requirements.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 10) and 'RapidDraw needs Python 3.10 or later; try make PYTHON=python3.12')"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip "setuptools>=77" wheel
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[dev]"
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[esrgan]" || echo "basicsr could not be installed; upscaling uses spandrel"
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m rapiddraw run workflows/api/text_to_image.json --output out

test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

# Against a real ComfyUI: COMFYUI_PATH=/where/ComfyUI make test-comfyui. COMFYUI_PYTHON is the interpreter that ComfyUI runs with (default:
# that of a venv or .venv in its folder, else ours). ARGS="-m slow" runs what is left out otherwise: a checkpoint of SD 1.5's real size.
test-comfyui: $(STAMP)
	@test -f "$(COMFYUI_PATH)/main.py" || { echo "set COMFYUI_PATH to the folder of a ComfyUI (the one with main.py)"; exit 1; }
	COMFYUI_PATH="$(COMFYUI_PATH)" OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/comfyui $(ARGS)

# Clients of ComfyUI's API from PyPI, unchanged, against `rapiddraw serve`. They have a virtual environment of their own.
test-clients: $(STAMP)
	test -x .venv-clients/bin/comfy || { $(PYTHON) -m venv .venv-clients && .venv-clients/bin/pip install -q comfy-cli comfy-sdk comfy-api-proxy websocket-client; }
	RAPIDDRAW_CLIENTS="$(CURDIR)/.venv-clients" OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/serve/test_clients.py $(ARGS)

# The site of docs/ (mkdocs.yml) into out/site; a warning is an error. It has a virtual environment of its own and needs no PyTorch.
docs:
	test -x .venv-docs/bin/mkdocs || { $(PYTHON) -m venv .venv-docs && .venv-docs/bin/python -m pip install -q -r docs/requirements.txt; }
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/python -m mkdocs build --strict

# The pictures of all templates, drawn again by the shipped weights. NAMES="style_guidance,11 Style dial" draws these alone.
thumbnails: $(STAMP)
	$(BIN)/python -m rapiddraw -v bench thumbnails $(if $(NAMES),--only "$(NAMES)")

# Every picture of README and docs again, after weights or graphs changed: COMFYUI_PATH=/where/ComfyUI make pictures.
pictures: thumbnails screenshots

# What the README shows of the editor, taken by the test that opens it.
screenshots: $(STAMP)
	SCREENSHOTS="$(CURDIR)/web/screenshots" COMFYUI_PATH="$(COMFYUI_PATH)" $(BIN)/python -m pytest tests/comfyui/test_editor.py -k shows_its_picture
	SCREENSHOTS="$(CURDIR)/web/screenshots" $(BIN)/python -m pytest tests/serve/test_page.py -k becomes_a_picture

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# After a weight file changed: write its size and sha256 into weights/manifest.json.
manifest: $(STAMP)
	$(BIN)/python -m rapiddraw inspect --write-manifest

benchmarks: $(STAMP)
	$(BIN)/python -m rapiddraw bench report

clean:
	rm -rf $(VENV) .venv-clients .venv-docs out temp .mypy_cache .pytest_cache .ruff_cache .hypothesis rapiddraw.egg-info build
