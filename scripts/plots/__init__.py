"""Plots as data: `charts` decides what stands where, `svg` and `png` write it down.

No plotting library: Pillow, which the node needs anyway, is enough for the pictures, so nothing has
to be skipped where another package is missing, and both show the same. `document` is the page.
"""
