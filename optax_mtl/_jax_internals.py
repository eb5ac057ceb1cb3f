def column_major(x):
  return x


def debug_check(*a, **k):
  pass
