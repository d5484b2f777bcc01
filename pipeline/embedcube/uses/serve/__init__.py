"""The server of cubes: points, boxes, parcels, similar places, provenance and the store itself, over HTTP.

`app.py` puts it together. Needs the extra `serve`.
"""
