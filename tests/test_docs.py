"""The README and the documentation say what the package does."""

import importlib.util
import pathlib
import re

import pytest

import optax_mtl
from docs import method_tables, public_names
from optax_mtl import _aliases, _registry

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))


def _load_generate():
  path = ROOT / "docs" / "generate.py"
  spec = importlib.util.spec_from_file_location("docs_generate", path)
  module = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(module)
  return module


generate = _load_generate()


def read(path):
  return path.read_text(encoding="utf-8")


def test_table_of_methods_is_fresh():
  readme = read(ROOT / "README.md")
  assert generate.readme(readme) == readme, (
    "The table of methods in README.md is stale: run `make generate`."
  )


def methods_of_the_package():
  return [name for name, f in optax_mtl.METHODS.items() if f.info.room]


def test_table_has_every_method():
  table = generate.table()
  for name in methods_of_the_package():
    assert f"`{name}`" in table


def test_tables_say_what_methods_read():
  rows = {
    row.split("`")[1]: [cell.strip() for cell in row.split(" | ")]
    for row in generate.table().splitlines()
    if "`" in row and row.startswith("|")
  }
  assert rows["gradnorm"][4:6] == ["`losses=`", "T + 1"]
  assert rows["dwa"][4:6] == ["`losses=`", "1"]
  assert rows["equal_weighting"][4:6] == ["–", "1"]


def test_methods_from_elsewhere_do_no_harm(monkeypatch):
  """Neither tables nor pages know a method of a user's own."""
  before = generate.table(), generate.pages()
  methods = dict(_registry.METHODS)
  monkeypatch.setattr(_registry, "METHODS", methods)
  monkeypatch.setattr(optax_mtl, "METHODS", methods)

  @optax_mtl.method(paper="", url="", weights_sum="")
  def never_documented(num_tasks: int) -> optax_mtl.UpdateRule:
    return optax_mtl.UpdateRule(lambda step, memory: (None, memory), None)

  assert never_documented.info.name in optax_mtl.METHODS
  assert (generate.table(), generate.pages()) == before


def test_rooms_without_a_heading_are_noticed(monkeypatch):
  rooms = {k: v for k, v in method_tables.ROOMS.items() if k != "losses"}
  monkeypatch.setattr(method_tables, "ROOMS", rooms)
  with pytest.raises(ValueError, match=r"\['losses'\].*ROOMS"):
    generate.table()


def test_a_method_without_a_group_is_noticed(monkeypatch):
  groups = method_tables.GROUPS[1:]
  monkeypatch.setattr(method_tables, "GROUPS", groups)
  with pytest.raises(ValueError, match="rlw: docs/method_groups.py must"):
    generate.table()


def test_stale_table_is_noticed(tmp_path, monkeypatch, capsys):
  """Both what CI does with a stale table, and what a contributor does."""
  stale = tmp_path / "README.md"
  stale.write_text(
    read(ROOT / "README.md").replace("`mgda`", "`renamed`"), encoding="utf-8"
  )
  monkeypatch.setattr(generate, "README", stale)
  assert generate.main(["--check"]) == 1
  assert "make generate" in capsys.readouterr().err
  assert generate.main([]) == 0
  assert read(stale) == read(ROOT / "README.md")
  assert generate.main(["--check"]) == 0


def test_everything_public_is_documented():
  missing = generate.undocumented()
  assert not missing, (
    f"No page documents {', '.join(missing)}: add it to docs/api.md or "
    "docs/solvers.md, or give it a leading underscore."
  )


def test_undocumented_names_are_noticed(tmp_path, monkeypatch):
  """A page lost a name, which two modules make public."""
  for path in (ROOT / "docs").glob("*.md"):
    text = read(path).replace(".. autofunction:: optax_mtl.accumulate\n", "")
    (tmp_path / path.name).write_text(text, encoding="utf-8")
  before = set(generate.undocumented())
  monkeypatch.setattr(generate, "DOCS", tmp_path)
  assert set(generate.undocumented()) - before == {
    "optax_mtl.accumulate",
    "optax_mtl.wrappers.accumulate",
  }


def test_public_names_are_those_of_a_type_checker(tmp_path, monkeypatch):
  """What is imported "as" itself or by star, and what is defined; no more."""
  package = tmp_path / "names_of_a_package"
  package.mkdir()
  (package / "room.py").write_text(
    "import os as os\nfrom math import cos as cos, sin\n_private = 1\n"
  )
  (package / "listed.py").write_text("__all__ = ['tau']\nfrom math import *\n")
  (package / "__init__.py").write_text(
    "import sys\n"
    "from names_of_a_package.listed import *\n"
    "from names_of_a_package.room import *\n"
    "from math import exp as exp, log as _log, pi\n"
    "TABLE = other = {}\n"
    "number: int = 1\n"
    "def function(): ...\n"
    "class Class: ...\n"
    "def _hidden(): ...\n"
  )
  monkeypatch.syspath_prepend(tmp_path)
  module = importlib.import_module(package.name)
  assert sorted(public_names.exports(module)) == [
    *("Class", "TABLE", "cos", "exp", "function", "number", "os", "other"),
    "tau",
  ]


def test_public_names_hold_what_users_call():
  names = public_names.public_names()
  assert len(names) == len(set(names))
  for name in (
    *("METHODS", "Step", "WeightState", "facts", "mgda", "method", "on_trunk"),
    *("metrics.delta_m", "solvers.min_norm", "plot.front", "pcgrad"),
    *("wrappers.EmaWeightsMemory", "integrations.flax.TrainState"),
  ):
    assert f"optax_mtl.{name}" in names
  assert "optax_mtl.solvers" not in names  # A module.


def test_every_method_has_a_page():
  pages = generate.pages()
  names = {f"{name}.md" for name in methods_of_the_package()}
  assert pages.keys() == names | {"index.md"}


def test_names_elsewhere_are_in_the_docs():
  """A row for each alias, between the methods and the end."""
  index = generate.pages()["index.md"]
  table = index.split("## Names elsewhere")[1]
  assert "| `ConFIG` | ConFIG, TorchJD | `conflict_free(T)` |" in table
  for name in _aliases.ALIASES:
    assert f"| `{name}` |" in table


def test_pages_document_what_methods_remember():
  pages = generate.pages()
  memory = "autoclass:: optax_mtl.methods.losses.dwa.DwaMemory"
  assert memory in pages["dwa.md"] and "`DwaMemory`, below" in pages["dwa.md"]
  assert "[`Certificate`](../solvers.md#certificates)" in pages["mgda.md"]
  assert "memory is empty" in pages["equal_weighting.md"]


def test_one_notation():
  """Mathematics is Unicode in backticks: here, and in every docstring."""
  sources = [*(ROOT / "optax_mtl").rglob("*.py"), *PAGES]
  for path in sources:
    found = re.search(r"math::?|\$\$|\\(?:frac|sum|lambda)\b", read(path))
    assert not found, f"{path.relative_to(ROOT)} says {found[0]!r}"


def test_every_status_has_its_remedy():
  table = read(ROOT / "docs" / "solvers.md")
  for status in optax_mtl.solvers.Status:
    assert f"| `{status.name}` |" in table


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links(path):
  """Links to files lead to files, and to headings that exist."""
  generated = {
    ROOT / "docs" / "methods" / name: text
    for name, text in generate.pages().items()
  }
  for target in re.findall(r"\]\(([^)\s]+)\)", read(path)):
    if target.startswith("http"):
      continue
    file, _, anchor = target.partition("#")
    linked = (path.parent / file).resolve() if file else path
    assert linked.exists() or linked in generated, f"{target} leads nowhere"
    if anchor:
      text = generated.get(linked) or read(linked)
      headings = re.findall(r"(?m)^#+ (.*)|^\((.*)\)=", text)
      slugs = {_slug(a) or b for a, b in headings}
      assert anchor in slugs, f"{target}: there are {sorted(slugs)}"


def test_benchmarks_are_documented():
  """The page names every module that is a command, and no other."""
  commands = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "benchmarks").rglob("*.py")
    if 'if __name__ == "__main__":' in read(path)
  }
  page = read(ROOT / "docs" / "benchmarks.md")
  assert set(re.findall(r"python -m (benchmarks[\w.]+\w)", page)) == commands


def _slug(heading):
  """The anchor of a heading, as GitHub makes it."""
  return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
