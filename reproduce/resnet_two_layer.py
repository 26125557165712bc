"""Log D against block and against layer of a residual network of two-layer blocks, at the best learning rate.

python -m equisep -m experiment=resnet_two_layer && python reproduce/resnet_two_layer.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("resnet_two_layer")
