"""The law's statistics for control networks that should not follow it, with p-values of r under two null models.

python -m equisep -m experiment=controls && python reproduce/controls.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("controls")
