# %% [markdown]
# # A first look: which layers of a network still tell inputs apart?
#
# Three networks of 164 layers, untrained, on real digits. Nothing is trained here: what differs is the architecture.
# Run it as a script (`python analyses/00_first_look.py`, `--smoke` for shallow networks) or cell by cell.

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import deepprobe as dp

parser = argparse.ArgumentParser(description="Condition numbers of untrained PlainNet, ResNet and ResNeXt by depth.")
parser.add_argument("--smoke", action="store_true", help="20 layers in place of 164: seconds")
parser.add_argument("--seed", type=int, default=0, help="of the initial weights")
parser.add_argument("--out", type=Path, default=Path("runs/first_look"), help="folder of the report and the figure")
arguments, _ = parser.parse_known_args()
depth = 20 if arguments.smoke else 164

# %%
images, labels = dp.load_dataset("digits", split="test", limit=128).tensors()
tables = {
    name: dp.condition_numbers(
        dp.create_model(name, in_channels=1, input_size=8, seed=arguments.seed),
        [(images, labels)],
        tap="block",
        view="samples",
        replay=64,
    )
    for name in (f"plainnet{depth}", f"resnet{depth}", f"resnext{depth}")
}

# %% [markdown]
# One row a block. `status` says what may be said: here every layer has full rank, so that it is not depth alone that
# makes a PlainNet's representations singular. `floor` is what float32 itself adds, measured against a float64 replay.

# %%
table = pd.concat([t.assign(network=name) for name, t in tables.items()], ignore_index=True)
columns = ["network", "depth", "status", "condition_number", "condition_number_null", "effective_rank", "floor"]
print(table.loc[table.groupby("network")["depth"].idxmax(), columns].to_string(index=False))

# %%
arguments.out.mkdir(parents=True, exist_ok=True)
axes = dp.reports.condition_by_depth(table)
axes.figure.savefig(arguments.out / "condition_by_depth.png", dpi=150, bbox_inches="tight")
plt.close(axes.figure)
print(dp.write_report(tables, arguments.out / "report.html"))
