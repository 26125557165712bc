"""Log D against layer at width 20, 100 and 1,000, at the best learning rate.

python -m equisep -m experiment=width && python reproduce/width.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("width")
