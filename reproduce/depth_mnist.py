"""The last layer's D against depth on MNIST 10×10, at the best learning rate of each depth.

python -m equisep -m experiment=depth_mnist && python reproduce/depth_mnist.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("depth_mnist")
