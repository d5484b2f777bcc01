"""Decoders: small heads that turn the vectors of a cube into classes or numbers, fitted on labels, scored honestly.

labels.py     a file of points, polygons or pixels  -> labelled cells
examples.py   labelled cells                        -> their vectors, places, times
folds.py      places                                -> folds that do not leak
heads.py      vectors                               -> classes or numbers (NumPy alone)
around.py     cells                                 -> each with those beside it
fit.py        examples                              -> a head (scikit-learn; convolution.py with torch)
file.py       a decoder                             <-> its file (safetensors)
baselines.py  examples                              -> the same rows with raw pixels, with random weights
report.py     examples, baselines                   -> scores, and what they are worth
apply.py      a cube, a decoder                     -> COG or Zarr
"""
