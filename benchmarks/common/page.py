"""One HTML page, pictures and all in one file.

A click on a column's title sorts the table, and curves say their names under
the pointer: `page.js` and `page.css`, which the page carries.
"""

import base64
import dataclasses
import datetime
import html
import pathlib
import string
from collections.abc import Mapping, Sequence
from typing import Any

_PAGE = string.Template("""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
$style</style>
$sections
<p class="small">$versions. Written $date.</p>
<div id="tip" hidden></div>
<script>
$script</script>
</html>
""")

_SECTION = string.Template("""<h1>$title</h1>
<p>$sentence</p>
<p class="small">$settings</p>
<div class="scroll"><table>
<thead><tr>$head</tr></thead>
<tbody>
$body
</tbody></table></div>
$notes
$figures
""")


_HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Section:
  """What one comparison shows.

  Attributes:
    title: Above it.
    sentence: What came out, from the numbers.
    settings: How it was made.
    head: The column titles.
    rows: The cells, as text.
    notes: What a reader of the table has to know.
    pictures: Caption to PNG file; if there is an SVG file beside it, that is
      shown, whose curves have names.
  """

  title: str
  sentence: str
  settings: str
  head: Sequence[str]
  rows: Sequence[Sequence[str]]
  notes: Sequence[str]
  pictures: Mapping[str, pathlib.Path]


def listed(mapping: Mapping[str, Any]) -> str:
  """Names and values in one line of text.

  Example:
    >>> listed({"num_seeds": 3, "jax": "1.0"})
    'num seeds 3, jax 1.0'
  """
  return ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in mapping.items())


def _cells(tag: str, texts: Sequence[str]) -> str:
  return "".join(
    f"<{tag}>{html.escape(text.replace(chr(10), ' '))}</{tag}>"
    for text in texts
  )


def _figure(caption: str, path: pathlib.Path) -> str:
  caption = html.escape(caption)
  curves = path.with_suffix(".svg")
  if curves.exists():
    return f"<h2>{caption}</h2>\n{curves.read_text(encoding='utf-8')}"
  code = base64.b64encode(path.read_bytes()).decode()
  return (
    f'<h2>{caption}</h2>\n<img alt="{caption}" '
    f'src="data:image/png;base64,{code}">'
  )


def render(sections: Sequence[Section], versions: Mapping[str, Any]) -> str:
  """The page.

  Args:
    sections: One after the other; the first has the title.
    versions: Name to version of what it was made with.

  Returns:
    The HTML.
  """
  parts = [
    _SECTION.substitute(
      title=html.escape(section.title),
      sentence=html.escape(section.sentence),
      settings=html.escape(section.settings),
      head=_cells("th", section.head),
      body="\n".join(f"<tr>{_cells('td', row)}</tr>" for row in section.rows),
      notes="".join(
        f'<p class="small">{html.escape(note)}</p>' for note in section.notes
      ),
      figures="\n".join(
        _figure(caption, path) for caption, path in section.pictures.items()
      ),
    )
    for section in sections
  ]
  return _PAGE.substitute(
    title=html.escape(sections[0].title),
    style=(_HERE / "page.css").read_text(encoding="utf-8"),
    script=(_HERE / "page.js").read_text(encoding="utf-8"),
    sections="\n".join(parts),
    versions=html.escape(listed(versions)),
    date=datetime.date.today().isoformat(),
  )
