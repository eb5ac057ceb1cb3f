"""The README and the documentation say what the package does."""

import importlib.util
import os
import pathlib
import re
import subprocess
import sys

import pytest

import optax_mtl

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


def test_table_has_every_method():
  table = generate.table()
  for name in optax_mtl.METHODS:
    assert f"`{name}`" in table


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


def test_undocumented_names_are_noticed(monkeypatch):
  """A name that no page has, and an old name for a new thing."""
  monkeypatch.setattr(optax_mtl, "brand_new", lambda: None, raising=False)
  monkeypatch.setattr(optax_mtl, "__all__", [*optax_mtl.__all__, "brand_new"])
  assert generate.undocumented() == ["optax_mtl.brand_new"]


def test_every_method_has_a_page():
  pages = generate.pages()
  assert pages.keys() == {f"{n}.md" for n in optax_mtl.METHODS} | {"index.md"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links(path):
  """Links to files lead to files, and to headings that exist."""
  generated = {ROOT / "docs" / "methods" / name for name in generate.pages()}
  for target in re.findall(r"\]\(([^)\s]+)\)", read(path)):
    if target.startswith("http"):
      continue
    file, _, anchor = target.partition("#")
    linked = (path.parent / file).resolve() if file else path
    assert linked.exists() or linked in generated, f"{target} leads nowhere"
    if anchor:
      headings = re.findall(r"(?m)^#+ (.*)|^\((.*)\)=", read(linked))
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
  """Runs code in a process of its own: it may register a method."""
  env = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
  result = subprocess.run(
    [sys.executable, "-W", "error", "-c", code],
    env=env,
    capture_output=True,
    text=True,
    timeout=300,
  )
  assert result.returncode == 0, result.stderr
  return result.stdout


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


def test_getting_started():
  """All of the page's code but the first block, as one program."""
  blocks = _python(ROOT / "docs" / "getting_started.md")
  _run("\n".join(blocks[1:]))


def test_design():
  """The measurement that the page invites to still runs."""
  (block,) = _python(ROOT / "docs" / "design.md")
  output = _run(block)
  assert "as it is" in output and "canonical" in output


def test_adding_a_method():
  """The walk-through's method does what its text says it does."""
  method, reference = _python(ROOT / "docs" / "adding_a_method.md")
  _run(
    f"{method}\n"
    "import numpy as np\n"
    "each_step = lambda function: function\n"
    "reference = lambda name: each_step\n"
    f"{reference}\n"
    "losses = np.array([1.0, 2.0, 4.0])\n"
    "tx = gls(3)\n"
    "state = tx.init(jnp.zeros(2))\n"
    "call = jax.jit(tx.update)\n"
    "_, new = call(jnp.ones((3, 2)), state, losses=losses)\n"
    "want = reference_gls(3, None, {'losses': losses})\n"
    # Logarithm, mean and exponential: a few roundings of numbers near 1.
    "np.testing.assert_allclose(new.weights, want, rtol=1e-6)\n"
    "active = jnp.array([True, True, False])\n"
    "_, new = call(jnp.ones((3, 2)), state, losses=losses, active=active)\n"
    "want = reference_gls(2, None, {'losses': losses[:2]})\n"
    "np.testing.assert_allclose(new.weights[:2], want, rtol=1e-6)\n"
    "assert new.weights[2] == 0\n"
  )
