"""Errors about trees of another structure name leaves, few of them."""

import collections
import re

import numpy as np
import pytest

import optax_mtl

NAMES = "abcdefgh"


def refusal(grads):
  params = dict.fromkeys(NAMES, np.zeros(2, np.float32))
  tx = optax_mtl.equal_weighting(3)
  with pytest.raises(ValueError, match="differ in structure") as caught:
    tx.update(grads, tx.init(params), params)
  text = re.search(r"the tree of gradients (.*?)\. A method", str(caught.value))
  return text[1]


def test_few_leaves_are_named():
  leaf = np.zeros((3, 2), np.float32)
  assert refusal(dict.fromkeys("bcdefgh", leaf)) == "lacks leaf ['a']"
  assert refusal(dict.fromkeys(f"{NAMES}x", leaf)) == "has leaf ['x']"
  assert refusal(dict.fromkeys("abc", leaf)) == (
    "lacks leaf ['d'], leaf ['e'], leaf ['f'] and 2 more"
  )
  assert refusal(leaf) == (
    "lacks leaf ['a'], leaf ['b'], leaf ['c'] and 5 more, and has the only leaf"
  )
  other = collections.OrderedDict(dict.fromkeys(NAMES, leaf))
  words = refusal(other)
  assert words.startswith("has the same leaves in other containers, PyTreeDef(")
  assert "OrderedDict" in words
