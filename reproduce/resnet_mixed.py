"""Log D against layer and block of a residual network with two kinds of blocks: a law for each half.

python -m equisep -m experiment=resnet_mixed && python reproduce/resnet_mixed.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("resnet_mixed")
