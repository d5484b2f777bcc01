"""The report of a campaign: one HTML file that needs no network.

`gather.py` reads the run folder, `pictures.py` draws, `page.py` writes.
"""
