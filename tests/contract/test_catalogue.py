"""The catalogue is complete, its modules document themselves, and importing them changes nothing."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import pofx
from pofx import models
from pofx.catalogue import entries
from pofx.testing import TINY

SOURCE = Path(pofx.__file__).parent
FAMILIES = {path.name for path in (SOURCE / "models").iterdir() if path.is_dir() and not path.name.startswith("_")}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", entries())
def test_a_model_is_at_hand_in_the_room_of_models(name):
    model = entries()[name].load()
    assert getattr(models, model.__name__) is model


@pytest.mark.parametrize("name", entries())
def test_an_entry_says_what_a_user_asks(name):
    entry = entries()[name]
    assert entry.name == name
    assert entry.summary
    assert entry.family in FAMILIES
    assert entry.paper or entry.family == "baselines", "every method has a paper"
    assert entry.domains
    assert set(entry.domains) <= TINY.keys()
    if entry.tiny:
        assert entry.tiny.keys() == set(entry.domains), "a tiny form for each kind of domain, and for no other"
    else:
        assert entry.arguments, "a model without a tiny form is a preset"
        stands = [e for e in entries().values() if e.path == entry.path and set(entry.domains) <= e.tiny.keys()]
        assert stands, "a preset, for which another entry of its class is tested"


@pytest.mark.parametrize("name", entries())
def test_an_entry_can_be_loaded_and_its_arguments_exist(name):
    entry = entries()[name]
    assert entry.load().__doc__
    for arguments in (*entry.tiny.values(), entry.arguments):
        assert arguments.keys() <= entry.hyperparameters().keys()


def test_every_family_has_one_flagship_or_is_a_baseline():
    flagships = [entry.family for entry in entries().values() if entry.flagship]
    assert len(flagships) == len(set(flagships))
    assert set(flagships) == {entry.family for entry in entries().values()} - {"baselines"}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{path} has no docstring"


def test_importing_pofx_does_not_import_torch():
    assert python("import sys, pofx; print('torch' in sys.modules)").strip() == "False"


def test_importing_any_module_changes_nothing_global():
    code = f"""
import importlib, json, sys, warnings
import numpy as np, torch
state = lambda: [
    str(torch.get_default_dtype()), torch.get_num_threads(), torch.is_grad_enabled(),
    torch.get_rng_state().sum().item(), torch.are_deterministic_algorithms_enabled(),
    torch.get_float32_matmul_precision(), torch.distributions.Distribution._validate_args,
    str(np.random.get_state()), str(np.geterr()), str(warnings.filters), sys.path[:],
    sys.getrecursionlimit(),
]
def names(root, package):
    for path in sorted(root.iterdir()):
        if path.is_dir() and (path / "__init__.py").exists():
            yield f"{{package}}.{{path.name}}"
            yield from names(path, f"{{package}}.{{path.name}}")
        elif path.suffix == ".py" and not path.name.startswith("__"):
            yield f"{{package}}.{{path.stem}}"
from pathlib import Path
changed = []
for name in names(Path({str(SOURCE)!r}), "pofx"):
    before = state()
    importlib.import_module(name)
    if state() != before:
        changed.append(name)
print(json.dumps(changed))
"""
    assert json.loads(python(code).splitlines()[-1]) == []
