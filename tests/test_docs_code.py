"""The code in the README and in the documentation runs as it stands there."""

import pathlib
import re
import shutil
import sys
import types

import jax.numpy as jnp
import pytest
from alone import printed_by

import optax_mtl

ROOT = pathlib.Path(__file__).parents[1]


def read(path):
  return path.read_text(encoding="utf-8")


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
def test_with_the_loss_function():
  """Auto-Lambda and SAMO as the page trains them."""
  page = ROOT / "docs" / "with_the_loss_function.md"
  code = _checked("\n".join(_python(page)))
  assert code.count("_same(") == 3  # The function, and two comments.
  _run(code)


@pytest.mark.as_users
def test_diagnostics():
  """What is logged, how it is drawn, and how a state is found."""
  code = _checked("\n".join(_python(ROOT / "docs" / "diagnostics.md")))
  assert code.count("_same(") == 6  # The function, and five comments.
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
  printed_by(
    "-c",
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
    paths=(tmp_path,),
  )


def _of_composition(containing):
  """The one piece of code on that page which contains something."""
  pieces = _python(ROOT / "docs" / "composition.md")
  (code,) = [piece for piece in pieces if containing in piece]
  return code


@pytest.mark.as_users
def test_an_update_with_constant_weights_has_derivatives():
  """By the rows' own entries: what the update's formula says."""
  code = _of_composition("stop_gradient(grads)")
  _run(
    "import jax, jax.numpy as jnp, numpy as np, optax_mtl\n"
    "tx = optax_mtl.nash_mtl(2)\n"
    "params, rows = jnp.zeros(2), jnp.array([[1.0, 2.0], [3.0, -1.0]])\n"
    "state = tx.init(params)\n"
    "def first_entry(grads, state=state):\n"
    + "".join(f"  {line}\n" for line in code.splitlines())
    + "  return update[0], state.weights\n"
    "got, weights = jax.grad(first_entry, has_aux=True)(rows)\n"
    "np.testing.assert_allclose(got[:, 0], weights, rtol=1e-6)\n"
    "assert not got[:, 1].any() and weights.all()\n"
  )


@pytest.mark.as_users
def test_adam_then_lbfgs():
  """On two paraboloids it ends where their weighted sum is lowest."""
  _run(
    "import jax, jax.numpy as jnp, numpy as np, optax, optax_mtl\n"
    "targets = {'b': jnp.array([1.0, 0.0]), 'a': jnp.array([0.0, 3.0])}\n"
    "def loss_fn(params):\n"
    "  return {k: jnp.sum((params - t) ** 2) for k, t in targets.items()}\n"
    "tx = optax.chain(optax_mtl.mgda(2), optax.adam(0.1))\n"
    "params = jnp.array([2.0, 2.0])\n"
    "opt_state = tx.init(params)\n"
    "for _ in range(3):\n"
    "  losses, grads = optax_mtl.value_and_task_grads(loss_fn)(params)\n"
    "  update, opt_state = tx.update(grads, opt_state, params, losses=losses)\n"
    "  params = optax.apply_updates(params, update)\n"
    + _of_composition("optax.lbfgs()")
    + "best = weights @ jnp.stack([targets['a'], targets['b']])\n"
    "best = best / weights.sum()\n"
    # Steps end where float32 sees no fall: at the root of its epsilon.
    "np.testing.assert_allclose(params, best, atol=2e-3)\n"
  )
