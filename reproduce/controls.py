"""The law's statistics for control networks that should not follow it, with p-values of r under two null models.

python -m equisep -m experiment=controls && python reproduce/controls.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("controls")
