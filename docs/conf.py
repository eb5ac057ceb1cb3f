"""Sphinx configuration."""

import pathlib
import re
import sys

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS))

import generate  # noqa: E402

import optax_mtl  # noqa: E402

project = "optax_mtl"
author = "The optax_mtl authors"
version = release = optax_mtl.__version__

extensions = [
  "myst_parser",
  "sphinx.ext.autodoc",
  "sphinx.ext.napoleon",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "optax_mtl"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

# Docstrings write code in single backticks.
default_role = "code"
autodoc_typehints = "none"
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
add_module_names = False
toc_object_entries = False


def _returns(lines):
  """Rewrites a Returns section so that napoleon takes no word for a type.

  A list of `name: text` becomes bullets; a colon in the first line of plain
  text is pushed to the second.
  """
  if "Returns:" not in lines:
    return lines
  start = lines.index("Returns:") + 1
  end = start
  while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
    end += 1
  body = lines[start:end]
  while body and not body[-1]:
    body.pop()
  if not body:
    return lines
  names = [re.match(r"  (\w+): ", line) for line in body]
  if names[0] and sum(map(bool, names)) > 1:
    bullets = [
      f"  * `{name[1]}`: {line[name.end() :]}" if name else line
      for name, line in zip(names, body, strict=True)
    ]
    body = ["  A tuple.", "", *bullets]
  elif ":" in re.sub(r"`[^`]*`", "", body[0]):
    first, rest = body[0].strip().split(" ", 1)
    body[:1] = [f"  {first}", f"  {rest}"]
  return [*lines[:start], *body, "", *lines[end:]]


def _as_rst(app, what, name, obj, options, lines):
  """Docstrings write shapes as they read best: not in RST."""
  text = "\n".join(_returns(lines))

  # Outside of code, the star in [T, *shape] starts no emphasis.
  code_or_star = re.compile(
    r"(?m)^ *(?:>>>|\.\.\.).*$|`[^`]*`|(?<=[\[ ])\*(?=\w)"
  )
  text = code_or_star.sub(
    lambda match: r"\*" if match[0] == "*" else match[0], text
  )
  lines[:] = text.split("\n")


def _prepare(app):
  generate.write_pages()
  missing = generate.undocumented()
  if missing:
    from sphinx.errors import ExtensionError

    raise ExtensionError(
      f"Public names without documentation: {', '.join(missing)}. Add them to "
      "docs/api.md, or give them a leading underscore."
    )


def setup(app):
  # Ahead of napoleon, which has priority 500.
  app.connect("autodoc-process-docstring", _as_rst, priority=400)
  # Before Sphinx looks for the files to read.
  app.connect("builder-inited", _prepare)
