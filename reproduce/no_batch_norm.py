"""Log D against layer without batch normalisation, depth 20, at the best rate and the published one.

python -m equisep -m experiment=no_batch_norm && python reproduce/no_batch_norm.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("no_batch_norm")
