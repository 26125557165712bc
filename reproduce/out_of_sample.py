"""Test accuracy at equal training loss: joint against two-stage training, CIFAR-10 and Fashion-MNIST 10×10.

python -m equisep -m experiment=out_of_sample && python reproduce/out_of_sample.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("out_of_sample")
