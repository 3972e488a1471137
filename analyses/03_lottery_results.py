# %% [markdown]
# # What do lottery tickets reach at scale, beside what was published?
#
# Turns finished experiments into the numbers of `docs/results/lottery-tickets.md`: the tables between its two marks and
# the figures beside it; a report lies in each experiment. They come from the recipes:
#
#     deepprobe lottery --config analyses/recipes/mnist-lottery-cpu.toml
#     python analyses/03_lottery_results.py runs/mnist-lottery runs/cifar10-lottery --out docs/results
#
# `--smoke` first makes a small experiment on a few digits and works on this.

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd

import deepprobe as dp
from deepprobe import reports
from deepprobe.reports import made_on, markdown_table, spread, write_between_marks

parser = argparse.ArgumentParser(description="Tables and figures of docs/results/lottery-tickets.md.")
parser.add_argument("folders", nargs="*", type=Path, help="experiments")
parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page and its figures")
parser.add_argument("--samples", type=int, default=2048, help="test images on which conditioning is measured")
parser.add_argument("--data-dir", type=Path, help="folder of the data sets' files")
parser.add_argument("--smoke", action="store_true", help="make a small experiment and show that")
arguments, _ = parser.parse_known_args()

DATA = {"cifar10": "CIFAR-10 (AVIF copy)", "mnist": "MNIST"}

# %%
if arguments.smoke:
    splits = [dp.load_dataset("digits", split=split, limit=200).tensors() for split in ("train", "test")]
    small = dp.LotteryConfig(training=dp.TrainConfig(epochs=2), rounds=1, controls=("reinit", "sibling"))
    dp.run_lottery("resnet8", splits, small, out=arguments.out, about={"data": {"name": "digits"}}, quiet=True)
    arguments.folders = [arguments.out]
experiments = [dp.open_experiment(folder) for folder in arguments.folders]

# %% [markdown]
# One row a round and branch: the mean over the seeds, with the lowest and the highest.

# %%
BRANCHES = ["ticket", "reinit", "random-mask", "shuffled-mask", "dense", "sibling"]


def row(number: int, branch: str, part: pd.DataFrame) -> dict[str, object]:
    return {
        "round": number,
        "weights left": f"{part['density'].mean():.2%}",
        "branch": branch,
        "n": len(part),
        "early-stop iteration": spread(part["early_stop_iteration"], ",.0f"),
        "test accuracy there, %": spread(part["early_stop_test_accuracy"], ".2f", factor=100),
        "at the end, %": spread(part["test_accuracy"], ".2f", factor=100),
        "barrier, points": spread(part["barrier"], ".2f", factor=100),
        "empty layers": f"{part['n_empty_layers'].max():g}",
    }


def results(experiment: dp.runs.Experiment) -> pd.DataFrame:
    table = experiment.table()
    table = table[table["status"] == "complete"]
    groups = sorted(table.groupby(["round", "branch"]), key=lambda g: (g[0][0], BRANCHES.index(g[0][1])))
    return pd.DataFrame([row(number, branch, part) for (number, branch), part in groups])


# %% [markdown]
# Does pruning to a winning ticket improve or ruin conditioning? The trained networks again, on more images than the
# experiment itself looked at: medians over layers, then over seeds; the dense network, then rounds that have controls.


# %%
def conditioning(experiment: dp.runs.Experiment) -> pd.DataFrame:
    data = experiment.config["data"]
    test = dp.load_dataset(data["name"], data_dir=arguments.data_dir, split="test", input_size=data.get("input_size"),
                           limit=arguments.samples).tensors()  # fmt: skip
    runs = experiment.runs().query("status == 'complete' and branch in ('ticket', 'reinit', 'random-mask')")
    compared = runs.loc[runs["branch"] != "ticket", "round"].unique()
    rows = []
    for run in runs[runs["round"].isin([0, *compared])].itertuples():
        model = dp.load_model(run.path)
        has_blocks = hasattr(model.features, "stage1")
        found = dp.condition_numbers(
            model, [test], tap="block" if has_blocks else "output", view="channels", rows=4, progress=False
        )
        kernels = dp.weight_table(model, progress=False)
        rows.append(
            {"weights left": f"{run.density:.2%}", "round": run.round, "branch": run.branch, "n": 1}
            | {f"κ {t}": f["condition_number_live"].median() for t, f in (("outputs", found), ("kernels", kernels))}
            | {f"rank {t}": f["effective_rank"].median() for t, f in (("outputs", found), ("kernels", kernels))}
            | {"dead units": found["n_dead"].sum()}
        )
    groups = pd.DataFrame(rows).groupby(["round", "branch", "weights left"], sort=False)
    table = groups.median(numeric_only=True).assign(n=groups["n"].sum()).reset_index()
    shown = {"κ outputs": "{:.3g}", "κ kernels": "{:.3g}", "rank outputs": "{:.1f}", "rank kernels": "{:.1f}",
             "dead units": "{:.0f}"}  # fmt: skip
    table = table.assign(**{name: table[name].map(text.format) for name, text in shown.items()})
    return table.sort_values(["round", "branch"], ascending=[True, False], kind="stable")


# %% [markdown]
# Figures: accuracy and early stopping against density, barriers, density by layer, conditioning.


# %%
def figures(experiment: dp.runs.Experiment) -> list[Path]:
    table, layers = experiment.table(), experiment.layers()
    drawn = {
        "accuracy": lambda: reports.outcome_by_density(table),
        "early-stop": lambda: reports.outcome_by_density(table, measure="early_stop_iteration"),
        "barrier": lambda: reports.barrier_by_density(table),
        "density": lambda: reports.density_by_layer(experiment.densities()),
        "kernels": lambda: reports.conditioning_by_density(layers[layers["tap"] == "weight"]),
        "representations": lambda: reports.conditioning_by_density(
            layers[layers["tap"].isin(["block", "output"])], measure="effective_rank"
        ),
    }
    if table["barrier"].isna().all():
        del drawn["barrier"]
    written = []
    for what, draw in drawn.items():
        axes = draw()
        written.append(arguments.out / f"lottery-{experiment.name}-{what}.png")
        axes.figure.savefig(written[-1], dpi=110, bbox_inches="tight")
        plt.close(axes.figure)
    return written


def section(experiment: dp.runs.Experiment) -> str:
    asked, model = experiment.config["lottery"], experiment.config["model"]
    training, data = asked["training"], experiment.config.get("data", {}).get("name", "?")
    first = dp.open_run(experiment.runs()["path"].iloc[0])
    n = int(experiment.runs()["status"].eq("complete").sum())
    seeds = sorted(experiment.runs()["seed"].unique())
    settings = (
        f"{training['epochs']} epochs, batch {training['batch_size']}, {training['optimizer']} at {training['lr']} "
        f"({training['schedule']}), weight decay {training['weight_decay']}, {training['precision']}, augmentation "
        f"{training['augmentation']}; {asked['prune']:.0%} a round, {asked['allocation']}, "
        f"rates {asked['rates'] or 1}, criterion {asked['criterion']}, rewound to {asked['rewind']}."
    )
    parts = [
        f"### {model['name']} on {DATA.get(data, data)}: `{experiment.name}`",
        f"n = {n} complete trainings; seeds {', '.join(map(str, seeds))}. {settings} {made_on(first.provenance)}",
        markdown_table(results(experiment)),
        f"Conditioning of the trained networks on the first {arguments.samples:,} test images (κ over live units, "
        "effective rank; medians over layers, then over seeds):",
        markdown_table(conditioning(experiment)),
        *(f"![{path.stem}]({path.name})" for path in figures(experiment)),
    ]
    return "\n\n".join(parts) + "\n"


# %%
arguments.out.mkdir(parents=True, exist_ok=True)
numbers = "\n".join(section(experiment) for experiment in experiments)
page = write_between_marks(arguments.out / "lottery-tickets.md", numbers)
for experiment in experiments:
    print(reports.write_lottery_report(experiment, experiment.path / "report.html"))
print(page)
