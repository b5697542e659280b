"""The direction of imports, and what may not stand in the source."""

import ast
import re
from pathlib import Path

import pytest

import trilemma

SOURCE = Path(trilemma.__file__).parent
FILES = sorted(SOURCE.rglob("*.py"))

STAGES = [
    ("typing", "errors", "rng"),
    ("processes", "networks", "data", "metrics", "checkpoints.store"),
    ("parametrisation", "autoencoders", "solver"),
    ("denoiser",),
    ("methods", "samplers", "likelihood", "oracle"),
    ("sampling", "checkpoints.links"),
    ("interpolation", "checkpoints.nvae_links"),
    (
        "training",
        "checkpoints.official_ddgan",
        "checkpoints.official_cld",
        "checkpoints.official_lsgm",
    ),
    ("config",),
    ("pipeline",),
    ("evaluation", "checkpoints.convert"),
    ("report",),
    ("commands",),
    ("cli",),
]
"""From left to right. A module sees what stands left of it, and itself; neighbours of one stage do
not see each other, but for the first, whose members are small."""
FREE = {"typing", "errors", "rng"}
EXCEPTIONS = {
    # Pictures on disk: used by the trainer and the command line, needs atomic writing only.
    "images": {"checkpoints.store", "errors"},
    "": {"pipeline"},  # the package itself re-exports
    "__main__": {"cli"},
}


def module_of(path):
    parts = list(path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def stage_of(module):
    """The entry of ``STAGES`` that a module belongs to, and its position."""
    for position, names in enumerate(STAGES):
        for name in names:
            if module == name or module.startswith(f"{name}."):
                return name, position
    return None, None


def imports(path):
    """Modules of this package that a file imports, at any depth, type-checking ones included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "trilemma" or name.startswith("trilemma."):
                found.add(name.removeprefix("trilemma").removeprefix("."))
    return found


def existing(name):
    """The longest prefix of a dotted name that is a module."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        base = SOURCE.joinpath(*parts[:end])
        if base.with_suffix(".py").exists() or (base / "__init__.py").exists():
            return ".".join(parts[:end])
    return ""


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_go_left(path):
    module = module_of(path)
    seen = {existing(name) for name in imports(path)} - {module}
    if module in EXCEPTIONS:
        allowed = EXCEPTIONS[module]
        wrong = {x for x in seen if x not in allowed and stage_of(x)[0] not in allowed}
        assert not wrong, f"{module} imports {wrong}"
        return
    ours, position = stage_of(module)
    if ours is None:
        assert module == "checkpoints" and not seen, f"{module} has no place in the house"
        return
    for name in seen:
        theirs, other = stage_of(name)
        if name == "images":
            theirs, other = name, stage_of("sampling")[1]
        if theirs == ours:
            continue
        assert other is not None, f"{module} imports {name}, which has no place in the house"
        together = ours in FREE and theirs in FREE
        assert other < position or together, f"{module} imports {name}, which is not left of it"


def test_every_folder_and_file_has_a_place():
    known = {name for names in STAGES for name in names} | set(EXCEPTIONS) | {"checkpoints"}
    for path in FILES:
        module = module_of(path)
        assert module in known or stage_of(module)[0] is not None, module


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_no_print_no_star_no_private_paths(path):
    text = path.read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in ("print", "eval", "exec", "breakpoint"), node.lineno
        if isinstance(node, ast.ImportFrom):
            assert all(alias.name != "*" for alias in node.names), node.lineno
    machine = re.search(r"""["'\s](/(home|work|root|mnt|Users|tmp|usr|opt|data)/)""", text)
    assert machine is None, machine
    assert not re.search(r"\bTODO\b(?! ?\(#\d+\))", text)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_unpickles_freely(path):
    """``torch.load`` never without weights_only=True, arrays never with pickles."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called, options = ast.unparse(node.func), {k.arg: k.value for k in node.keywords}
        assert called not in ("pickle.load", "pickle.loads"), node.lineno
        if called == "torch.load":
            assert ast.literal_eval(options["weights_only"]) is True, node.lineno
        if called == "np.load":
            assert ast.literal_eval(options["allow_pickle"]) is False, node.lineno


@pytest.mark.parametrize("path", sorted((SOURCE / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_hold_no_machine_paths(path):
    assert not re.search(r":\s*['\"]?(/|~|[A-Z]:\\)", path.read_text())


def test_every_public_module_says_what_it_exports():
    for path in FILES:
        tree = ast.parse(path.read_text())
        if path.name == "__main__.py" or not tree.body:
            continue
        assert ast.get_docstring(tree), f"{path.name} has no docstring"
        names = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        assert "__all__" in names, f"{path.relative_to(SOURCE)} has no __all__"


def test_importing_the_package_is_light():
    """Data sets, training and progress bars are loaded by those who use them."""
    import subprocess
    import sys

    code = "import trilemma, sys; print([m for m in ('accelerate', 'rich') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
