"""What is installed: the package, all of it, and nothing else."""

import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tomllib
import zipfile

import pytest
from alone import printed_by
from packaging.requirements import Requirement

import optax_mtl

ROOT = pathlib.Path(__file__).parents[1]

#: Import name -> requirement, of all that the package itself may import.
RUNTIME = {"jax": "jax", "jaxlib": "jaxlib", "numpy": "numpy", "optax": "optax"}

#: What an import of the package must not load: extras, and tests' tools.
OPTIONAL = (
  *("chex", "equinox", "flax", "hypothesis", "matplotlib", "orbax", "pymoo"),
  *("pytest", "rich", "sklearn", "torch"),
)


@pytest.fixture(scope="module")
def project():
  with open(ROOT / "pyproject.toml", "rb") as file:
    return tomllib.load(file)["project"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
  """The wheel, built without a network by calling the backend itself."""
  folder = tmp_path_factory.mktemp("wheel")
  code = (
    f"from hatchling import build; print(build.build_wheel({str(folder)!r}))"
  )
  result = subprocess.run(
    [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
  )
  assert result.returncode == 0, result.stderr
  (path,) = folder.glob("*.whl")
  return path


def test_version(wheel):
  assert re.fullmatch(r"\d+\.\d+\.\d+", optax_mtl.__version__)
  assert wheel.name == f"optax_mtl-{optax_mtl.__version__}-py3-none-any.whl"
  changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
  latest = re.search(r"(?m)^## (\S+)", changelog)[1]
  assert latest == optax_mtl.__version__, "CHANGELOG.md lacks this version."


def test_installed_version():
  try:
    installed = importlib.metadata.version("optax-mtl")
  except importlib.metadata.PackageNotFoundError:
    pytest.skip("run from the source tree, without installing")
  assert installed == optax_mtl.__version__


def test_wheel_holds_the_package_alone(wheel):
  with zipfile.ZipFile(wheel) as archive:
    names = {n for n in archive.namelist() if ".dist-info/" not in n}
  files = {
    str(path.relative_to(ROOT))
    for path in (ROOT / "optax_mtl").rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
  }
  assert names == files
  # A type checker reads the annotations of a package only with this file.
  assert "optax_mtl/py.typed" in names


def test_wheel_metadata(wheel, project):
  with zipfile.ZipFile(wheel) as archive:
    (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
    metadata = archive.read(name).decode()
    assert any(n.endswith("licenses/LICENSE") for n in archive.namelist())
  assert f"Requires-Python: {project['requires-python']}" in metadata
  assert "Multi-task optimization" in metadata


def test_runtime_requirements(project):
  names = {Requirement(text).name for text in project["dependencies"]}
  assert names == set(RUNTIME.values())


def test_imports_nothing_optional():
  """In a process of its own: this one has loaded everything."""
  code = (
    "import sys, jax, numpy, optax\n"
    "before = {name.partition('.')[0] for name in sys.modules}\n"
    "import optax_mtl\n"
    "after = {name.partition('.')[0] for name in sys.modules}\n"
    "print(*sorted(after - before - set(sys.stdlib_module_names)))\n"
    "print(*sorted(after))\n"
  )
  new, loaded = map(str.split, printed_by("-c", code).splitlines())
  assert new == ["optax_mtl"]
  assert not set(loaded) & (set(OPTIONAL) - set(_optional_of_dependencies()))


def _optional_of_dependencies():
  """Of `OPTIONAL`, what a runtime dependency requires for itself."""
  for name in RUNTIME.values():
    for text in importlib.metadata.requires(name) or ():
      requirement = Requirement(text)
      if not requirement.marker:
        yield requirement.name


def test_readme_commands():
  """The targets that the README names exist, and CI runs its test command."""
  readme = (ROOT / "README.md").read_text(encoding="utf-8")
  makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
  targets = set(re.findall(r"(?m)^(?:`?)make (\w+)", readme)) | set(
    re.findall(r"`make (\w+)`", readme)
  )
  assert {"demo", "test", "docs"} <= targets
  for target in targets:
    assert re.search(rf"(?m)^{target}:", makefile), f"no target {target}"
  ci = ROOT / ".ci" / "run"
  assert os.access(ci, os.X_OK) and "make test" in ci.read_text()
