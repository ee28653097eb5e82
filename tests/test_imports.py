"""Who may import whom, read off the sources; and what a bare `import nanoinfer` loads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"nanoinfer": ROOT / "nanoinfer", **{f"nanoinfer.{name}": ROOT / name for name in ("kernels", "weights")}}
FRAMEWORKS = {"torch", "torchvision", "timm", "tensorflow", "jax", "onnxruntime", "openvino"}
NUMERIC = {"numpy", "numba", "llvmlite", "safetensors", "huggingface_hub"}
# A room is a folder, or a file beside the folders. Each row: the room, and the rooms that it may import.
ROOMS = """
errors
cgroups
console        errors
preprocessing  errors
data           errors
image          preprocessing errors
weights        errors
kernels.simd
kernels        kernels.simd
kernels.jit    kernels kernels.simd errors
graph
architectures  graph preprocessing errors
diagnosis      architectures graph
checkpoint     diagnosis architectures graph weights data errors
pretrained     checkpoint architectures graph weights data preprocessing errors
machine        kernels kernels.jit kernels.simd cgroups
runtime        kernels kernels.jit cgroups errors
lowering       graph kernels kernels.simd machine
plan           lowering graph kernels kernels.jit kernels.simd machine runtime
reports        plan lowering graph kernels machine runtime architectures weights errors
sections       plan lowering graph machine weights console errors
model          pretrained reports sections plan graph machine runtime image preprocessing errors
batch          model pretrained weights errors
doctor         model runtime machine kernels kernels.jit checkpoint data errors __init__
benchmark      model errors
cli            doctor benchmark batch model reports console pretrained checkpoint architectures \
               weights data errors __init__
"""
ALLOWED = {room: set(needs) for room, *needs in map(str.split, ROOMS.strip().splitlines())}


def sources():
    """{dotted module: path} of everything that the package holds."""
    found = {}
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            found[".".join(parts).removesuffix(".__init__")] = path
    return found


SOURCES = sources()


def type_checking(node):
    return isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING"


def statements(tree):
    """Every node, in functions too, but for what only a type checker reads."""
    for node in ast.iter_child_nodes(tree):
        if not type_checking(node):
            yield node
            yield from statements(node)


def imports(module):
    """Dotted names of all modules that a module imports, relative ones made absolute."""
    path, names = SOURCES[module], set()
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in statements(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*base, *filter(None, [node.module])])
            # "from . import a" imports modules; "from .a import b" imports a, or the module a.b if there is one.
            names |= {f"{base}.{a.name}" if f"{base}.{a.name}" in SOURCES else base for a in node.names}
    return names


def room(module):
    """The room of a module of the package: "nanoinfer.kernels.simd.tile" -> "kernels.simd"."""
    parts = module.split(".")[1:]
    return next((".".join(parts[:n]) for n in (2, 1) if ".".join(parts[:n]) in ALLOWED), parts[0])


def local(module):
    """Rooms of what a module imports from the package."""
    return {room(name) for name in imports(module) if name.startswith("nanoinfer.")}


def outside(module):
    names = {name.split(".")[0] for name in imports(module)}
    return names - set(sys.stdlib_module_names) - {"nanoinfer", "__future__"}


def within(package):
    return [name for name in SOURCES if name == package or name.startswith(f"{package}.")]


@pytest.mark.parametrize("module", [name for name in SOURCES if name.count(".") and "__main__" not in name])
def test_imports_go_downwards(module):
    assert local(module) <= ALLOWED[room(module)] | {room(module)}


def test_the_table_of_rooms_has_no_cycle():
    remaining = dict(ALLOWED)
    while remaining:
        free = {name for name, needs in remaining.items() if not needs & set(remaining)}
        assert free, f"a cycle among {sorted(remaining)}"
        remaining = {name: needs for name, needs in remaining.items() if name not in free}


@pytest.mark.parametrize("package", ["kernels", "weights", "graph", "architectures", "lowering", "plan", "machine"])
def test_no_room_of_the_engine_needs_more_than_numbers(package):
    for module in within(f"nanoinfer.{package}"):
        assert outside(module) <= NUMERIC, module


def test_frameworks_are_imported_in_one_module_alone():
    for module in SOURCES:
        if module != "nanoinfer.reports.torch_reference":
            assert not outside(module) & FRAMEWORKS, module


def test_nothing_in_the_package_imports_tests_or_bench():
    for module in SOURCES:
        assert not {"tests", "bench", "kernels", "weights"} & {name.split(".")[0] for name in imports(module)}, module


def functions(path):
    """Every function of a file, nested ones too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.Lambda))]


def test_files_functions_and_signatures_are_short():
    for module, path in SOURCES.items():
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 350, module
        for node in functions(path):
            where = f"{module}:{node.lineno}"
            assert node.end_lineno - node.lineno < 80, where
            assert len(node.args.posonlyargs + node.args.args) <= 6, where


def test_a_folder_holds_at_most_a_dozen_modules():
    folders = {}
    for path in SOURCES.values():
        folders.setdefault(path.parent, []).append(path.name)
    for folder, names in folders.items():
        assert len(set(names) - {"__init__.py"}) <= 12, folder
        assert "__init__.py" in names and (folder / "__init__.py").read_text(encoding="utf-8").startswith('"""'), folder


def loaded_by(code):
    """Names in sys.modules after running `code` in a new process."""
    code += "\nimport sys; print(' '.join(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


def test_import_is_light():
    heavy = {"numpy", "numba", "llvmlite", "PIL", "rich", "safetensors", *FRAMEWORKS}
    assert not loaded_by("import nanoinfer") & heavy
    assert not loaded_by("import nanoinfer\nnanoinfer.list_models()") & (heavy - {"numpy"})


def test_a_model_is_made_without_the_compiler():
    code = "import nanoinfer\nnanoinfer.create_model('digits')"
    assert not loaded_by(code) & {"numba", "PIL", "rich", *FRAMEWORKS}
