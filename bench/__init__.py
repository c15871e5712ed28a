"""The benchmark: icekeeper and its rivals side by side on one machine (`make bench`). Never part of the wheel."""
