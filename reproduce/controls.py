"""The law's statistics of networks that should not follow it, beside the trained one, and what chance alone gives.

python -m equisep -m experiment=controls && python reproduce/controls.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("controls")
