"""Log D against layer with batch normalisation, layer normalisation and none, at the best learning rate.

python -m equisep -m experiment=normalisation && python reproduce/normalisation.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("normalisation")
