# %% [markdown]
# # Is there a winning ticket in LeNet-300-100?
#
# Train, remove a fifth of the weights, put the rest back to their initial values, train again, sixteen times. If the
# hypothesis of Frankle & Carbin (2019) holds, the sparse networks train as well as the dense one, and better than the
# same sparse networks with other initial weights, or with as many weights elsewhere.
#
# On handwritten digits of 8 × 8 pixels, minutes on a CPU; `--data mnist` takes real MNIST where its files are there
# (`--data-dir`, DEEPPROBE_DATA). Run it as a script (`--smoke` for two rounds) or cell by cell. What each word means:
# `docs/lottery-tickets.md`.

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt

import deepprobe as dp

parser = argparse.ArgumentParser(description="Lottery tickets of LeNet-300-100 on digits, beside two controls.")
parser.add_argument("--smoke", action="store_true", help="two rounds, one seed: seconds")
parser.add_argument("--data", default="digits", help="digits or mnist")
parser.add_argument("--data-dir", type=Path, help="folder of the files of MNIST")
parser.add_argument("--seeds", type=int, default=3, help="how many")
parser.add_argument("--out", type=Path, default=Path("runs/lottery_ticket"), help="folder of experiment and report")
arguments, _ = parser.parse_known_args()

# %% [markdown]
# The optimizer, the batch and the rates are those of the paper: Adam at 1.2e-3, 60 images, a fifth of each layer and a
# tenth of the last one. Every fourth round has its controls.

# %%
limit = 12_000 if arguments.data == "mnist" else None
train, test = (
    dp.load_dataset(arguments.data, split=split, data_dir=arguments.data_dir, limit=limit if split == "train" else None)
    for split in ("train", "test")
)
config = dp.LotteryConfig(
    training=dp.TrainConfig(
        epochs=2 if arguments.smoke else 8 if arguments.data == "mnist" else 25,
        batch_size=60,
        optimizer="adam",
        lr=1.2e-3,
        schedule="constant",
        weight_decay=0,
    ),
    rounds=2 if arguments.smoke else 16,
    prune=0.2,
    allocation="layerwise",
    rates={"output": 0.5},
    rewind="init",
    controls=["reinit", "random-mask"],
    control_rounds=[2] if arguments.smoke else [4, 8, 12, 16],
    seeds=range(1 if arguments.smoke else arguments.seeds),
)
experiment = dp.run_lottery("lenet300_100", (train, test), config, out=arguments.out / "experiment")

# %% [markdown]
# One row a training. The early-stop iteration is the step of the lowest validation loss: how fast a network learns.
# Where it is the last step, the network was still learning when training ended.

# %%
table = experiment.table()
columns = ["density", "test_accuracy", "early_stop_iteration", "early_stop_test_accuracy"]
print(table.groupby(["round", "branch"])[columns].mean().round(4).to_string())

# %% [markdown]
# What of the advantage is the initial weights', and what the mask's? Pairs of one seed and round: ticket less control,
# in percentage points of test accuracy, mean and standard error over the seeds.

# %%
wide = table.pivot_table(index=["round", "seed"], columns="branch", values="test_accuracy")
for control in config.controls:
    gained = (100 * (wide["ticket"] - wide[control])).dropna().groupby("round").agg(["mean", "sem", "count"])
    print(f"ticket - {control}\n{gained.round(2).to_string()}")

# %%
axes = dp.reports.outcome_by_density(table)
axes.figure.savefig(arguments.out / "accuracy_by_density.png", dpi=150, bbox_inches="tight")
plt.close(axes.figure)
print(dp.reports.write_lottery_report(experiment, arguments.out / "report.html"))
