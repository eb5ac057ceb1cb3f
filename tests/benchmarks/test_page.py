"""The HTML page: what is in it, and in a browser, what it does."""

import json
import shutil
import subprocess

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("rich")

from matplotlib.figure import Figure  # noqa: E402

from benchmarks.common import curves, output, page, pictures  # noqa: E402

#: A browser is not something that pip installs: where none is, the parts that
#: need no browser are tested all the same.
BROWSER = next(
  filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))),
  shutil.which("google-chrome"),
)
NAMES = ("mgda", 'a "quoted" <name>', "third")
ROWS = [
  ["mgda", "7.39", "44.1 ± 6.12"],
  ["dwa", "100", "9.97 ± 5.64"],
  ["third", "–", "-0.5"],
  ["upgrad", "1.5e-3", "1,200"],
]


def picture():
  """Three curves, one of them in colour, the others grey and alike."""
  figure, axes = pictures.panels(1, ["left"], 6.0, 4.0)
  x = [1.0, 10.0, 100.0]
  lines = {name: (x, [10.0**height] * 3) for height, name in enumerate(NAMES)}
  pictures.label_lines(axes[0, 0], lines, ["mgda"])
  return figure


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """The page, with a picture of curves and one of a field."""
  folder = tmp_path_factory.mktemp("page")
  field = Figure()
  field.subplots().imshow([[0.0, 1.0]])
  output.write(folder, "data", {}, {"lines": picture(), "field": field})
  section = page.Section(
    title="title",
    sentence="sentence",
    settings="settings",
    head=["method", "median", "mean"],
    rows=ROWS,
    notes=[],
    pictures={"Lines": folder / "lines.png", "Field": folder / "field.png"},
  )
  path = folder / "page.html"
  path.write_text(page.render([section], {"jax": "1"}), encoding="utf-8")
  return path


def test_one_file_with_everything_in_it(written):
  """Nothing is loaded from elsewhere; curves are SVG, fields PNG."""
  text = written.read_text(encoding="utf-8")
  assert text.count("data:image/png;base64,") == 1
  assert text.count("<svg") == 1
  for attribute in ('src="http', 'src="/', "<link", "@import", "url(http"):
    assert attribute not in text
  assert 'data-name="a &quot;quoted&quot; &lt;name&gt;"' in text


def test_lines_without_a_label_take_that_of_their_like():
  """One panel speaks for all; lines that nothing names have no name."""
  figure = Figure()
  left, right = figure.subplots(1, 2)
  left.plot([0, 1], color="red", label="mgda")
  right.plot([1, 0], color="red")
  right.plot([1, 0], color="blue")
  assert curves.as_svg(figure).count('data-name="mgda"') == 2
  bare = Figure()
  bare.subplots().plot([0, 1])
  assert curves.as_svg(bare) is None


#: Sorts by each column, the second twice; then points three pixels below the
#: middle of each curve, and notes what the page says.
SCRIPT = """
<script>
const found = { orders: [], tips: [], lit: [] };
const order = () => [...document.querySelectorAll("tbody tr")].map(
  (row) => row.cells[0].textContent);
const heads = document.querySelectorAll("thead th");
for (const column of [0, 1, 1, 2]) {
  heads[column].click();
  found.orders.push(order());
}
for (const curve of document.querySelectorAll("svg g.curve")) {
  curve.scrollIntoView();
  const box = curve.querySelector("path:not(.reach)").getBoundingClientRect();
  const place = { clientX: box.x + box.width / 2,
                  clientY: box.y + box.height / 2 + 3, bubbles: true };
  const under = document.elementFromPoint(place.clientX, place.clientY);
  under.dispatchEvent(new PointerEvent("pointermove", place));
  const tip = document.getElementById("tip");
  found.tips.push(tip.hidden ? null : tip.textContent);
  found.lit.push(document.querySelectorAll("svg g.lit").length);
  curve.dispatchEvent(new PointerEvent("pointerleave"));
  found.hidden = tip.hidden;
}
document.body.innerHTML = "<pre id=found></pre>";
document.getElementById("found").textContent = JSON.stringify(found);
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")
def test_in_headless_chromium(written, tmp_path):
  """Tables sort by numbers, and curves say their names under the pointer."""
  path = tmp_path / "with_script.html"
  text = written.read_text(encoding="utf-8")
  path.write_text(text.replace("</html>", SCRIPT), encoding="utf-8")
  result = subprocess.run(
    [
      *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu"),
      *("--no-first-run", "--disable-background-networking"),
      *(
        "--disable-component-update",
        "--disable-sync",
        "--window-size=1200,900",
      ),
      *(f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()),
    ],
    capture_output=True,
    text=True,
    timeout=120,
    check=True,
  )
  start = result.stdout.index('<pre id="found">') + len('<pre id="found">')
  raw = result.stdout[start : result.stdout.index("</pre>", start)]
  for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
    raw = raw.replace(entity, character)
  found = json.loads(raw)
  assert found["orders"] == [
    ["dwa", "mgda", "third", "upgrad"],
    ["upgrad", "mgda", "dwa", "third"],
    # What has no number stays last.
    ["dwa", "mgda", "upgrad", "third"],
    ["third", "dwa", "mgda", "upgrad"],
  ]
  assert sorted(found["tips"]) == sorted(NAMES)
  assert found["lit"] == [1, 1, 1]
  assert found["hidden"]
