"""The law through training: log D against layer at nine epochs, depth 8 and 20, Adam.

python -m equisep -m experiment=emergence && python reproduce/emergence.py
"""

from equisep.analysis.figures.catalogue import run_script

run_script("emergence")
