"""The README and the documentation say what the package does."""

import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import types

import jax.numpy as jnp
import pytest

import optax_mtl
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
    for row in generate.table().splitlines()[2:]
  }
  assert rows["gradnorm"][2:4] == ["`losses=`", "T + 1"]
  assert rows["dwa"][2:4] == ["`losses=`", "1"]
  assert rows["equal_weighting"][2:4] == ["–", "1"]


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
  rooms = {k: v for k, v in generate.ROOMS.items() if k != "losses"}
  monkeypatch.setattr(generate, "ROOMS", rooms)
  with pytest.raises(ValueError, match=r"\['losses'\].*ROOMS"):
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
  assert sorted(generate.exports(module)) == [
    *("Class", "TABLE", "cos", "exp", "function", "number", "os", "other"),
    "tau",
  ]


def test_public_names_hold_what_users_call():
  names = generate.public_names()
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


def _python(path):
  """The Python blocks of a page."""
  return re.findall(r"(?ms)^```python\n(.*?)^```", read(path))


def _run(code):
  """Runs code as a module of its own, with every warning an error.

  In this process, since a new one imports and compiles everything again. What
  it registers is gone afterwards.
  """
  page = types.ModuleType("page")
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(sys.modules, "page", page)
    exec(compile(code, "page", "exec"), vars(page))


def _run_alone(code, root):
  """Runs code in a process of its own, on the package under `root`."""
  env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)}
  result = subprocess.run(
    [sys.executable, "-W", "error", "-c", code],
    cwd=root,
    env=env,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert result.returncode == 0, result.stderr + result.stdout


@pytest.mark.as_users
def test_training_step():
  """The README's ten lines, and the front page's, with a loss to train."""
  (readme,) = _python(ROOT / "README.md")
  index, *_ = _python(ROOT / "docs" / "index.md")
  assert readme == index
  _run(
    "import jax, optax, optax_mtl\n"
    "import jax.numpy as jnp\n"
    "params = {'w': jnp.ones(3)}\n"
    "loss_fn = lambda p, x: [jnp.sum(p['w'] * x), jnp.sum(p['w'] ** 2)]\n"
    f"{readme}\n"
    "for _ in range(3):\n"
    "  params, opt_state, losses = train_step(params, opt_state, jnp.ones(3))\n"
    "assert params['w'].shape == (3,) and losses.shape == (2,)\n"
  )


@pytest.mark.as_users
def test_getting_started():
  """All of the page's code but the first block, as one program."""
  blocks = _python(ROOT / "docs" / "getting_started.md")
  _run("\n".join(blocks[1:]))


def test_names_of_tasks():
  """The error that the page shows is the one that comes."""
  page = read(ROOT / "docs" / "concepts.md")
  shown = re.search(r"# ValueError: ((?:.*\n)+?)```", page)[1]
  tx = optax_mtl.fixed_weighting(
    3, {"boundary": 5.0, "initial": 10.0, "pde": 1.0}
  )
  with pytest.raises(ValueError) as error:
    tx.update(
      jnp.ones((3, 2)),
      tx.init(jnp.ones(2)),
      losses={"bc": 1.0, "ic": 1.0, "pde": 1.0},
    )
  assert " ".join(shown.replace("#", "").split()) == str(error.value)


@pytest.mark.as_users
def test_design():
  """What the page invites to run still runs."""
  for block in _python(ROOT / "docs" / "design.md"):
    _run(block)


def _checked(code):
  """The program, in which `print(x)  # y` asserts that x prints as y.

  Spaces do not count, nor does what follows "]:" in the comment.
  """
  return (
    "def _same(value, comment):\n"
    "  want = comment.partition(']:')\n"
    "  want = want[0] + want[1][:1]\n"
    "  got = str(value)\n"
    "  assert ''.join(got.split()) == ''.join(want.split()), (got, want)\n"
    + re.sub(
      r"(?m)^print\((.*)\)\n?(?:  )?# (.*)$",
      lambda match: f"_same({match[1]}, {match[2]!r})",
      code,
    )
  )


@pytest.mark.as_users
def test_own_methods():
  """All of the page's code as one program, and what it says is printed."""
  code = _checked("\n".join(_python(ROOT / "docs" / "own_methods.md")))
  assert code.count("_same(") == 9  # The function, and eight comments.
  _run(code)


@pytest.mark.as_users
def test_dense():
  """The recipes for BatchNorm in linen and NNX, with a task that is absent."""
  pytest.importorskip("flax")
  code = _checked("\n".join(_python(ROOT / "docs" / "dense.md")))
  assert code.count("_same(") == 4  # The function, and three comments.
  # It runs once: the compiler's best would take longer.
  options = "compiler_options={'xla_backend_optimization_level': 0}"
  once = f"@__import__('functools').partial(jax.jit, {options})"
  assert code.count("@jax.jit") == 2
  code = code.replace("@jax.jit", once)
  _run(code)


def test_adding_a_method(tmp_path):
  """The walk-through, in a copy: its files, in their places, are enough."""
  for folder in ("optax_mtl", "benchmarks", "docs"):
    shutil.copytree(
      ROOT / folder,
      tmp_path / folder,
      ignore=shutil.ignore_patterns("__pycache__", "_build", "images"),
    )
  shutil.copy(ROOT / "README.md", tmp_path)
  method, line, reference, test = _python(ROOT / "docs" / "adding_a_method.md")
  room = tmp_path / "optax_mtl" / "methods" / "losses"
  files = {
    room / "gls.py": method,
    room / "__init__.py": read(room / "__init__.py") + line,
    tmp_path / "benchmarks/reference/methods/gls.py": reference,
    tmp_path / "tests/methods/test_gls.py": test,
  }
  page = read(ROOT / "docs" / "adding_a_method.md")
  for path, text in files.items():
    assert f"`{path.relative_to(tmp_path)}`" in page
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
  _run_alone(
    "import doctest, runpy\n"
    "import jax, numpy as np, jax.numpy as jnp, optax_mtl, pytest\n"
    f"assert optax_mtl.__file__.startswith({str(tmp_path)!r})\n"
    "from benchmarks.reference.methods import REFERENCES\n"
    "assert optax_mtl.METHODS['gls'].info.room == 'losses'\n"
    "facts = optax_mtl.facts(optax_mtl.gls(2))\n"
    "assert facts.needs == ('losses',) and not facts.gram\n"
    "losses = np.array([1.0, 2.0, 4.0])\n"
    "tx = optax_mtl.gls(3)\n"
    "state = tx.init(jnp.zeros(2))\n"
    "call = jax.jit(tx.update)\n"
    "def reference(losses):\n"
    "  grads = np.ones((1, len(losses), 2))\n"
    "  run = REFERENCES['gls'](len(losses), grads, {'losses': losses[None]})\n"
    "  return run[0]\n"
    "_, new = call(jnp.ones((3, 2)), state, losses=losses)\n"
    # Logarithm, mean and exponential: a few roundings of numbers near 1.
    "np.testing.assert_allclose(new.weights, reference(losses), rtol=1e-6)\n"
    "active = jnp.array([True, True, False])\n"
    "_, new = call(jnp.ones((3, 2)), state, losses=losses, active=active)\n"
    "want = [*reference(losses[:2]), 0]\n"
    "np.testing.assert_allclose(new.weights, want, rtol=1e-6)\n"
    "module = __import__('optax_mtl.methods.losses.gls', fromlist=['gls'])\n"
    "examples = doctest.DocTestFinder().find(optax_mtl.gls, 'gls', module)\n"
    "assert examples and examples[0].examples\n"
    "assert not doctest.DocTestRunner().run(examples[0]).failed\n"
    "runpy.run_path('docs/generate.py')['main']([])\n"
    "assert '| [`gls`]' in open('README.md').read()\n"
    "assert not pytest.main(\n"
    "  ['-qq', '-c/dev/null', '--rootdir=.', 'tests/methods/test_gls.py'])\n",
    tmp_path,
  )
