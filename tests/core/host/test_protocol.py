"""Both hosts meet the protocol of every topic: the same functions with the same parameters, in modules imported when asked for."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from typing import Any, get_type_hints

import pytest
from rapiddraw.core.host import Host, protocol
from rapiddraw.core.paths import pack_root

TOPICS = {name: getattr(protocol, kind) for name, kind in Host.__annotations__.items()}
Parameters = list[tuple[str, Any]]


def wanted(topic: type) -> dict[str, Parameters]:
    """(name, default) of each parameter of each function of a topic's protocol."""
    functions = {name: function for name, function in vars(topic).items() if inspect.isfunction(function) and name[0] != "_"}
    return {name: parameters(function)[1:] for name, function in functions.items()}


def parameters(function: Any) -> Parameters:
    return [(one.name, one.default) for one in inspect.signature(function).parameters.values()]


def written(host: str, topic: str) -> dict[str, Parameters]:
    """The same of a module's source, which need not be importable: ComfyUI's packages are not there."""
    path = pack_root() / "core" / "host" / host / f"{topic}.py"
    found = {}
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in node.args.args]
            assert (
                not node.args.kwonlyargs
                and not node.args.posonlyargs
                and not node.args.vararg
                and not node.args.kwarg
                or node.name[0] == "_"
            )
            defaults = [ast.literal_eval(default) if isinstance(default, ast.Constant) else ... for default in node.args.defaults]
            found[node.name] = list(zip(names, [inspect.Parameter.empty] * (len(names) - len(defaults)) + defaults, strict=True))
    return found


@pytest.mark.parametrize("topic", TOPICS)
def test_both_hosts_have_the_functions_of_a_topic_with_its_parameters(topic: str) -> None:
    asked = wanted(TOPICS[topic])
    assert asked and all(getattr(TOPICS[topic], name).__doc__ for name in asked)
    module = importlib.import_module(f"rapiddraw.core.host.embedded.{topic}")
    assert {name: parameters(getattr(module, name)) for name in asked} == asked
    source = written("comfy", topic)
    assert {name: source.get(name) for name in asked} == asked


def test_a_host_is_its_topics_and_says_so_where_there_is_none() -> None:
    host = Host("embedded")
    assert host.vae is importlib.import_module("rapiddraw.core.host.embedded.vae")
    assert get_type_hints(Host, vars(protocol)) == TOPICS
    with pytest.raises(AttributeError, match="no topic 'weather'.*process, model, clip"):
        host.weather  # noqa: B018


def test_a_topic_is_imported_when_it_is_asked_for() -> None:
    """Naming the samplers, as every start of ComfyUI's editor does, loads no diffusers and no transformers."""
    code = (
        "import sys; from rapiddraw.core.host import current; host = current(); host.sampling.sampler_names();"
        "print([name for name in ('diffusers', 'transformers') if name in sys.modules],"
        " 'rapiddraw.core.host.embedded.training' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603 - our own words
    assert out.stdout.split() == ["[]", "False"]


def test_the_device_is_a_torch_device(monkeypatch: pytest.MonkeyPatch) -> None:
    from rapiddraw.core.errors import InputError

    monkeypatch.setenv("RAPIDDRAW_DEVICE", "toaster")
    with pytest.raises(InputError, match="RAPIDDRAW_DEVICE='toaster'.*cpu or cuda"):
        Host("embedded")
