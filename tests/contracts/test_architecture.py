"""Who may import whom, and what may not occur at all, read from the source with ``ast``; docs/concepts/architecture.md.

Every import counts for the layers: inside functions, and for types only as well, because who names a type depends on
it. Only in the search for circles type-only imports are left out, since they are never executed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("autoseg", "planners", "trainers")
LAYERS = (
    ("cli", "__main__"),
    ("pipeline", "interop"),
    ("planning", "training", "training_config"),
    ("data", "inference", "evaluation.selection"),
    ("preprocessing", "augmentation", "networks", "losses", "evaluation", "postprocessing", "measurement"),
    (
        *("fingerprint", "plan", "splits", "dataset", "check", "workspace", "parallel", "registry", "progress"),
        *(
            "synthetic",
            "synthetic_tubes",
            "figures",
            "history",
            "hardware",
            "device",
            "lock",
            "receipt",
            "memory",
            "workers",
        ),
        *("ranks", "communication", "presets"),
    ),
    (
        "geometry",
        "labels",
        "image",
        "nifti",
        "slices",
        "arrays",
        "slab_components",
        "codec",
        "assignments",
        "durations",
        "atomic",
        "errors",
    ),
)
LAYER_OF = {f"autoseg.{name}": depth for depth, names in enumerate(LAYERS) for name in names}
# A third-party package -> the modules that may import it, as prefixes.
CONFINED = {
    "SimpleITK": ("autoseg.image", "autoseg.preprocessing", "autoseg.workers"),
    "torch": (
        *("autoseg.augmentation", "autoseg.data", "autoseg.networks", "autoseg.losses", "autoseg.inference"),
        *("autoseg.device", "autoseg.communication", "autoseg.interop", "autoseg.trainers"),
    ),
    "matplotlib": ("autoseg.figures",),
    "typer": ("autoseg.cli",),
    "rich": ("autoseg.cli",),
}
PROCESSES = ("autoseg.parallel", "autoseg.workers", "autoseg.data.loading", "autoseg.data.watched")
THREADS = {"Future", "ThreadPoolExecutor"}  # of concurrent.futures; threads are no worker processes
PICKLE_WRITER = "autoseg.interop.nnunet_properties"  # nnU-Net keeps the properties of a case in a pickle
PICKLES = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
VAGUE_CLASSES = ("Manager", "Handler", "Utils", "Helper")
VAGUE_MODULES = {"utils", "util", "helpers", "helper", "misc", "common"}
MOST_LINES = 450  # about 400 is what to aim at


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """One imported module or name, in full."""

    target: str
    name: str
    line: int
    is_type_only: bool
    is_local: bool


class Source:
    """A parsed module and its imports."""

    def __init__(self, path: Path, root: Path) -> None:
        self.path = path.relative_to(root)
        parts = [*self.path.parent.parts, *([] if path.stem == "__init__" else [path.stem])]
        self.module = ".".join(parts if parts[0] == "autoseg" else ["autoseg", *parts])
        self.text = path.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)
        self.imports = list(self._imports(self.tree, is_type_only=False, is_local=False))

    def _imports(self, node: ast.AST, *, is_type_only: bool, is_local: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            place = {"is_type_only": is_type_only, "is_local": is_local}
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(target=alias.name, name="", line=child.lineno, **place)
            elif isinstance(child, ast.ImportFrom):
                for alias in child.names:
                    target = self._absolute(child.module or "", level=child.level)
                    yield Import(target=target, name=alias.name, line=child.lineno, **place)
            elif isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
                yield from self._imports(child, is_type_only=True, is_local=is_local)
            else:
                in_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef)
                yield from self._imports(child, is_type_only=is_type_only, is_local=is_local or in_function)

    def _absolute(self, module: str, *, level: int) -> str:
        """Full name of what ``from ..module import`` refers to, ``level`` being the number of dots."""
        if level == 0:
            return module
        package = self.module.split(".")[: None if self.path.stem == "__init__" else -1]
        return ".".join([*package[: len(package) - level + 1], *filter(None, [module])])

    def says(self, line: int, problem: str) -> str:
        return f"{self.path}:{line}: {problem}"


def is_within(module: str, prefixes: tuple[str, ...]) -> bool:
    return any(module == prefix or module.startswith(f"{prefix}.") for prefix in prefixes)


def layer(module: str) -> int | None:
    """Depth of the layer, by the longest name that fits; None for what stands outside the layers."""
    while module not in LAYER_OF and "." in module:
        module = module.rpartition(".")[0]
    return LAYER_OF.get(module)


def check_tree(root: Path) -> list[str]:
    """Every broken rule in the tree as "file:line: what is wrong"."""
    paths = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    sources = [Source(path, root) for path in paths]
    modules = {source.module for source in sources}
    problems = []
    for source in sources:
        for found in source.imports:
            full = f"{found.target}.{found.name}"
            target = full if full in modules else found.target
            problems += [source.says(found.line, problem) for problem in _import_problems(source.module, target, found)]
        problems += [source.says(line, problem) for line, problem in _content_problems(source)]
    return problems + _circles(sources, modules)


def _import_problems(module: str, target: str, found: Import) -> Iterator[str]:
    if found.name == "*":
        yield f"import * from {found.target}: name what is needed"
    if target == "autoseg" and found.name != "__version__":
        yield "import from the module that defines it, not from the package autoseg"
    if target.startswith("autoseg."):
        yield from _layer_problems(module, target)
    top = target.partition(".")[0]
    if top in CONFINED and not is_within(module, CONFINED[top]):
        yield f"{top} may be imported only in {', '.join(CONFINED[top])}"
    if top == "matplotlib" and not (found.is_local or found.is_type_only):
        yield "matplotlib is imported inside the function that draws"
    if top in ("multiprocessing", "concurrent") and not is_within(module, PROCESSES) and found.name not in THREADS:
        yield f"worker processes are started only in {', '.join(PROCESSES)}"
    if target == "os" and found.name in ("environ", "getenv") and not is_within(module, ("autoseg.cli",)):
        yield "environment variables are read only in cli"


def _layer_problems(module: str, target: str) -> Iterator[str]:
    plugins = ("autoseg.planners", "autoseg.trainers")
    own = next((p for p in plugins if is_within(module, (p,))), None)
    if own is None:
        if is_within(target, plugins):
            yield f"{target} is found through its registry, never imported"
        here, there = layer(module), layer(target)
        if module != "autoseg" and here is None:
            yield f"{module} has no layer: give it one in {Path(__file__).name}"
        elif module != "autoseg" and there is not None and here is not None and there < here:
            yield f"{module} is in a layer below {target} and must not import it"
        return
    other = next(p for p in plugins if p != own)
    if is_within(target, (other, "autoseg.cli", "autoseg.pipeline")):
        yield f"{own.rpartition('.')[2]} must not import {target}"


def _content_problems(source: Source) -> Iterator[tuple[int, str]]:
    length = source.text.count("\n")
    if length > MOST_LINES:
        yield length, f"{length} lines; split the module (about 400 is the most)"
    if source.module.rpartition(".")[2] in VAGUE_MODULES:
        yield 1, "a module's name says what it holds"
    in_cli = is_within(source.module, ("autoseg.cli",))
    for node in ast.walk(source.tree):
        match node:
            case ast.ClassDef(name=name) if name.endswith(VAGUE_CLASSES):
                yield node.lineno, f"the class name {name} does not say what it does"
            case ast.Attribute(value=ast.Name(id="os"), attr="environ" | "getenv") if not in_cli:
                yield node.lineno, "environment variables are read only in cli"
            case ast.Call(func=ast.Name(id="print")) if not in_cli:
                yield node.lineno, "print only in cli"
    yield from _pickle_problems(source)


def _pickle_problems(source: Source) -> Iterator[tuple[int, str]]:
    """Reading a pickle runs its code; one module writes what nnU-Net reads, and the error may be caught by name."""
    allowed = {"UnpicklingError"}
    if source.module == PICKLE_WRITER:
        allowed |= {"dump", "dumps"}
    for found in source.imports:
        if found.target in PICKLES and found.name not in {*allowed, ""}:
            yield found.line, "nothing is pickled"
        if found.target in PICKLES - {"pickle"}:
            yield found.line, "nothing is pickled"
    for node in ast.walk(source.tree):
        match node:
            case ast.Attribute(value=ast.Name(id="pickle"), attr=name) if name not in allowed:
                yield node.lineno, f"pickle.{name}: nothing is pickled"
            case ast.Call(func=ast.Attribute(value=ast.Name(id=library), attr="load"), keywords=keywords):
                given = {k.arg: ast.unparse(k.value) for k in keywords}
                if library == "torch" and given.get("weights_only") != "True":
                    yield node.lineno, "torch.load needs weights_only=True"
                if library in ("np", "numpy") and given.get("allow_pickle", "False") != "False":
                    yield node.lineno, "NumPy arrays are loaded without pickle"


def _circles(sources: list[Source], modules: set[str]) -> list[str]:
    """Modules that import each other in a circle, each circle once."""
    edges: dict[str, dict[str, int]] = {}
    for source in sources:
        targets = edges.setdefault(source.module, {})
        for found in source.imports:
            full = f"{found.target}.{found.name}"
            target = full if full in modules else found.target
            if target in modules and not found.is_type_only and target != "autoseg":
                targets.setdefault(target, found.line)
    problems, done = [], set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            circle = [*way[way.index(module) :], module]
            source = next(s for s in sources if s.module == module)
            problems.append(source.says(edges[module][circle[1]], f"imports in a circle: {' -> '.join(circle)}"))
        elif module not in done:
            for target in edges[module]:
                visit(target, [*way, module])
            done.add(module)

    for module in edges:
        visit(module, [])
    return problems


def test_the_tree_keeps_the_rules() -> None:
    problems = check_tree(ROOT)
    assert not problems, "\n" + "\n".join(problems)


BROKEN = [
    ("autoseg/labels.py", "from autoseg.dataset import Case", "must not import it"),
    ("autoseg/labels.py", "def f():\n    from autoseg.dataset import Case", "must not import it"),
    ("autoseg/labels.py", "if TYPE_CHECKING:\n    from autoseg.dataset import Case", "must not import it"),
    ("autoseg/evaluation/report.py", "import autoseg.inference.model", "must not import it"),
    ("autoseg/plan.py", "from autoseg.cli import app", "must not import it"),
    ("autoseg/novelty.py", "import autoseg.errors", "has no layer"),
    ("autoseg/pipeline/train.py", "from autoseg.trainers.supervised import T", "through its registry"),
    ("autoseg/pipeline/train.py", "from autoseg import Workspace", "not from the package autoseg"),
    ("planners/unet.py", "from autoseg.trainers import step", "planners must not import"),
    ("planners/unet.py", "import autoseg.pipeline.train", "planners must not import"),
    ("trainers/step.py", "def f():\n    import autoseg.cli.app", "trainers must not import"),
    ("autoseg/plan.py", "import os\nx = os.environ['A']", "environment variables"),
    ("autoseg/plan.py", "import os\nx = os.getenv('A')", "environment variables"),
    ("autoseg/plan.py", "from os import environ", "environment variables"),
    ("trainers/step.py", "print(1)", "print only in cli"),
    ("autoseg/check.py", "import SimpleITK as sitk", "SimpleITK may be imported only"),
    ("autoseg/planning.py", "def f():\n    import torch.nn", "torch may be imported only"),
    ("autoseg/figures/x.py", "import matplotlib", "inside the function"),
    ("autoseg/check.py", "import multiprocessing", "worker processes"),
    ("autoseg/check.py", "from concurrent.futures import ProcessPoolExecutor", "worker processes"),
    ("autoseg/check.py", "\n" * 451, "split the module"),
    ("autoseg/codec.py", "import pickle\npickle.loads(b'')", "nothing is pickled"),
    ("autoseg/codec.py", "from pickle import dump", "nothing is pickled"),
    ("autoseg/interop/nnunet.py", "import pickle\npickle.dumps(1)", "nothing is pickled"),
    ("autoseg/interop/nnunet_properties.py", "import pickle\npickle.loads(b'')", "nothing is pickled"),
    ("autoseg/codec.py", "import joblib", "nothing is pickled"),
    ("autoseg/inference/model.py", "import torch\ntorch.load('x')", "weights_only=True"),
    ("autoseg/codec.py", "import numpy as np\nnp.load('x', allow_pickle=True)", "without pickle"),
    ("autoseg/check.py", "class CaseManager: ...", "does not say what it does"),
    ("autoseg/data/utils.py", "", "says what it holds"),
    ("autoseg/check.py", "from autoseg.errors import *", "import *"),
    ("autoseg/labels.py", "from .dataset import Case", "must not import it"),
    ("autoseg/evaluation/report.py", "from ..inference import model", "must not import it"),
    ("autoseg/data/__init__.py", "from ..cli import app", "must not import it"),
    ("autoseg/check.py", "from autoseg.check import f", "in a circle"),
]


@pytest.mark.parametrize(("path", "source", "expected"), BROKEN)
def test_a_broken_rule_is_reported_with_its_place(path: str, source: str, expected: str, tmp_path: Path) -> None:
    for folder in FOLDERS:
        (tmp_path / folder).mkdir()
    (tmp_path / path).parent.mkdir(exist_ok=True)
    (tmp_path / path).write_text(source, encoding="utf-8")

    problems = check_tree(tmp_path)

    assert len(problems) == 1
    assert expected in problems[0]
    assert problems[0].startswith(f"{path}:")


ALLOWED = [
    ("autoseg/pipeline/train.py", "from concurrent.futures import ThreadPoolExecutor"),
    ("autoseg/inference/model.py", "import pickle\ntry: ...\nexcept pickle.UnpicklingError: ..."),
    ("autoseg/interop/nnunet_properties.py", "import pickle\npickle.dumps(1)"),
    ("autoseg/pipeline/x.py", "from autoseg import __version__"),
    ("autoseg/cli/app.py", "import os\nprint(os.environ)"),
    ("planners/unet.py", "from autoseg.plan import Plan"),
]


@pytest.mark.parametrize(("path", "source"), ALLOWED)
def test_what_the_rules_allow_is_not_reported(path: str, source: str, tmp_path: Path) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text(source, encoding="utf-8")
    assert check_tree(tmp_path) == []


def test_a_circle_is_found_across_modules(tmp_path: Path) -> None:
    for name, other in (("plan", "splits"), ("splits", "dataset"), ("dataset", "plan")):
        path = tmp_path / "autoseg" / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"import autoseg.{other}\n", encoding="utf-8")
    (problem,) = check_tree(tmp_path)
    assert "autoseg.dataset -> autoseg.plan -> autoseg.splits -> autoseg.dataset" in problem
