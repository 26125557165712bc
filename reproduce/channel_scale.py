"""r, ρ and the CV of log ρ of VGG13 and AlexNet against the scale of their channels.

python -m equisep -m experiment=channel_scale && python reproduce/channel_scale.py
"""

from equisep.commands.main import run_script

if __name__ == "__main__":
    run_script("channel_scale")
