# %% [markdown]
# # Do PlainNet, ResNet and ResNeXt of 164 layers train, and how are they conditioned when they do?
#
# Turns finished runs into the numbers of `docs/results/training-164.md`: the tables between its two marks, and the
# figures beside it; a report lies in each folder of runs. The runs come from the recipes, one folder of runs a recipe:
#
#     deepprobe train --config analyses/recipes/mnist-164-cpu.toml --out runs/mnist-164-cpu
#     python analyses/01_training_164.py runs/mnist-164-cpu runs/cifar10-164-cpu --out docs/results
#
# `--smoke` first trains two shallow networks on a few digits and works on these.

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import deepprobe as dp
from deepprobe.reports import condition_by_depth, made_on, markdown_table, summary, training_curves, write_between_marks

parser = argparse.ArgumentParser(description="Tables and figures of docs/results/training-164.md from finished runs.")
parser.add_argument("folders", nargs="*", type=Path, help="folders of runs, one a recipe")
parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page and its figures")
parser.add_argument("--smoke", action="store_true", help="train two shallow networks and show these")
arguments, _ = parser.parse_known_args()

DATA = {"cifar10": "CIFAR-10 (AVIF copy)", "cifar100": "CIFAR-100 (AVIF copy)", "mnist": "MNIST"}

# %%
if arguments.smoke:
    folder = arguments.out
    images, test = (dp.load_dataset("digits", split=split, limit=128).tensors() for split in ("train", "test"))
    for name in ("plainnet8", "resnet8"):
        model = dp.create_model(name, in_channels=1, input_size=8, seed=0)
        dp.train(
            model, images, test_set=test, out=folder, name=name, config=dp.TrainConfig(epochs=2),
            callbacks=[dp.ProbeCallback("1ep", tap="block", view="samples")], about={"data": {"name": "digits"}},
            quiet=True,
        )  # fmt: skip
    arguments.folders = [folder]
runs = {}
for folder in arguments.folders:
    listed = dp.list_runs(folder)
    print(listed.drop(columns="path").to_string(index=False))
    ended = listed[listed["status"].isin(["complete", "diverged"])]
    runs[folder] = [dp.open_run(path) for path in ended["path"]]


# %% [markdown]
# One row a network. A network that always answers the same predicts one class and reaches the majority's share.


# %%
def last(run: dp.runs.Run, split: str, measure: str) -> float:
    metrics = run.metrics()
    found = metrics[(metrics["split"] == split) & (metrics["measure"] == measure)]["value"]
    return float(found.iloc[-1]) if len(found) else float("nan")


def speeds(run: dp.runs.Run) -> tuple[float, float]:
    """Samples a second over all epochs, training alone and with the time spent in probes."""
    metrics = run.metrics()
    table = metrics[metrics["split"] == "train"].pivot_table(index="epoch", columns="measure", values="value")
    samples, seconds = (table["samples_per_second"] * table["seconds"]).sum(), table["seconds"].sum()
    probing = table["seconds_in_callbacks"].sum() if "seconds_in_callbacks" in table else float("nan")
    return samples / seconds, samples / (seconds + probing)


def row(run: dp.runs.Run) -> dict[str, object]:
    alone, with_probes = speeds(run)
    classes = run.config["model"].get("num_classes", "?")
    return {
        "network": run.config["model"]["name"],
        "seed": run.config["training"]["seed"],
        "status": run.status,
        "epochs": f"{run.metrics()['epoch'].max():g}",
        "training accuracy": f"{last(run, 'train', 'accuracy'):.2%}",
        "test accuracy": f"{last(run, 'test', 'accuracy'):.2%}",
        "majority": f"{last(run, 'test', 'majority_share'):.2%}",
        "classes predicted": f"{last(run, 'test', 'n_predicted_classes'):g} of {classes}",
        "samples/s": f"{alone:,.0f}",
        "with probes": f"{with_probes:,.0f}",
    }


def conditioning(group: list[dp.runs.Run]) -> pd.DataFrame:
    """Block outputs as samples × units at the last step, means over the runs of a network."""
    found = summary(group)
    found = found[(found["tap"] == "block") & (found["view"] == "samples")]
    return pd.DataFrame(
        {
            "network": found["network"],
            "runs": found["n_runs"],
            "blocks": found["n_layers"].map("{:g}".format),
            "finite": found["finite"].map("{:g}".format),
            "median κ": found["kappa_median"].map("{:.3g}".format),
            "over live units": found["live_median"].map("{:.3g}".format),
            "greatest κ": found["kappa_greatest"].map("{:.3g}".format),
            "onset (layer)": found["onset"].map(lambda depth: "none" if pd.isna(depth) else f"{depth:.0f}"),
        }
    )


# %% [markdown]
# κ by depth at the end of training, and accuracy over training; one figure each a recipe.


# %%
def figures(folder: Path, group: list[dp.runs.Run]) -> list[Path]:
    named = [(run, {"network": run.config["model"]["name"], "run": run.name}) for run in group]
    layers = pd.concat([run.layers().assign(**names) for run, names in named])
    metrics = pd.concat([run.metrics().assign(**names) for run, names in named])
    written = []
    for what, draw, frame in (
        ("condition", condition_by_depth, layers[(layers["tap"] == "block") & (layers["view"] == "samples")]),
        ("training", training_curves, metrics),
    ):
        axes = draw(frame)
        axes = axes if hasattr(axes, "figure") else axes[0]
        written.append(arguments.out / f"training-164-{folder.name}-{what}.png")
        axes.figure.savefig(written[-1], dpi=120, bbox_inches="tight")
        plt.close(axes.figure)
    return written


def section(folder: Path, group: list[dp.runs.Run]) -> str:
    first = group[0]
    size, data = first.config["model"].get("input_size", "?"), first.config.get("data", {}).get("name", "?")
    training = first.config["training"]
    settings = (
        f"Batch {training['batch_size']}, {training['optimizer']} with momentum {training['momentum']}, highest "
        f"learning rate {training['lr']} ({training['schedule']}), weight decay {training['weight_decay']}, "
        f"{training['precision']}, augmentation {training['augmentation']}."
    )
    n, seeds = len(group), sorted({run.config["training"]["seed"] for run in group})
    probed = first.config.get("probe", {}).get("samples", "the")
    parts = [
        f"### {DATA.get(data, data)}, {size} × {size}: `{folder.name}`",
        f"n = {n} runs, one a network and seed; seeds {', '.join(map(str, seeds))}. {settings} "
        f"{made_on(first.provenance)}",
        markdown_table(pd.DataFrame([row(run) for run in group])),
        f"Block outputs as samples × units at the end, {probed} test images:",
        markdown_table(conditioning(group)),
        *(f"![{path.stem}]({path.name})" for path in figures(folder, group)),
    ]
    return "\n\n".join(parts) + "\n"


# %%
arguments.out.mkdir(parents=True, exist_ok=True)
numbers = "\n".join(section(folder, group) for folder, group in runs.items())
page = write_between_marks(arguments.out / "training-164.md", numbers)
for folder, group in runs.items():
    print(dp.write_report(group if len(group) > 1 else group[0], folder / "report.html"))
print(page)
