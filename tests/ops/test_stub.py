"""That fedsyn/_C.pyi says what the compiled module has: type checkers see nothing else of it."""

import ast
import inspect
from pathlib import Path

import pytest

import fedsyn
from fedsyn.ops.backends import native

pytestmark = pytest.mark.skipif(native() is None, reason="the compiled module is absent")


def signature(function):
    """Name, parameters in order with their defaults, and the outermost type that is returned."""
    arguments = function.args
    assert not arguments.posonlyargs and not arguments.kwonlyargs
    assert arguments.vararg is None and arguments.kwarg is None
    defaults = [f" = {ast.unparse(default)}" for default in arguments.defaults]
    bare = [""] * (len(arguments.args) - len(defaults))
    parameters = [a.arg + b for a, b in zip(arguments.args, [*bare, *defaults], strict=True)]
    returned = ast.unparse(function.returns).split("[")[0]
    return f"{function.name}({', '.join(parameters)}) -> {returned}"


def declared():
    """A line for each name of the stub."""
    lines = []
    for node in ast.parse((Path(fedsyn.__file__).parent / "_C.pyi").read_text()).body:
        match node:
            case ast.FunctionDef():
                lines.append(signature(node))
            case ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                lines.append(name)
    return lines


def compiled():
    """A line for each name of the module; pybind11 begins docstrings with the signature."""
    lines = []
    for name, value in vars(native()).items():
        assert not isinstance(value, type), "compare the members of classes too"
        if inspect.isroutine(value):
            definition = ast.parse(f"def {value.__doc__.splitlines()[0]}: ...").body[0]
            lines.append(signature(definition))
        elif not name.startswith("__"):
            lines.append(name)
    return lines


def test_the_stub_has_the_names_and_signatures_of_the_module():
    stub = [line for line in declared() if native().cuda_compiled() or "_cuda_" not in line]
    module = compiled()
    missing = [f"- {line}" for line in module if line not in stub]
    wrong = [f"+ {line}" for line in stub if line not in module]
    assert not missing + wrong, "\n".join(sorted(missing + wrong, key=lambda line: line[2:]))
