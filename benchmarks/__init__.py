"""Measurements that need more than the package: data, networks, comparisons."""
