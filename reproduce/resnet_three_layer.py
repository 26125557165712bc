"""Log D against block and against layer of a residual network of three-layer blocks, at the best learning rate.

python -m equisep -m experiment=resnet_three_layer && python reproduce/resnet_three_layer.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("resnet_three_layer")
