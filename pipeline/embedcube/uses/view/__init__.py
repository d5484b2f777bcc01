"""Cubes on a map in the browser.

`source/` has the page's code and `build.mjs`, which makes `page/` of it; `show.py` serves `page/` with the cubes.
"""
