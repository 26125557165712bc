"""Log D against layer without batch normalisation, depth 20, at the best rate and the published one.

python -m equisep -m experiment=no_batch_norm && python reproduce/no_batch_norm.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("no_batch_norm")
